"""`gn identify` names the convention that another implementation, of a few lines, made an output by."""

from __future__ import annotations

import json
import shlex
import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn, Shell
from test_conformance import FILES, load

from gncli.confirm import Errors
from gncli.identify import Candidate, Question, identify_files, judged
from gncli.recipes import Recipe, Structure
from gncli.screen import Affine

USUAL: dict[str, Any] = {
    "groups": 4, "eps": 1e-5, "layout": "NCHW", "grouping": "contiguous", "divide_by": "std",
    "eps_place": "inside", "variance": "population", "statistics": "exact", "affine": "none",
    "activation": "none", "reshaped": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tensor(shape: tuple[int, ...], seed: int = 0, dtype: str = "f4") -> Array:
    """No two channels, samples or places alike, and variances from 1e-4 to 10: eps shows."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(shape)
    for axis, length in enumerate(shape):
        along = [1] * len(shape)
        along[axis] = length
        x = x * 10 ** random.uniform(-0.6, 0.2, along) + random.normal(0, 0.3, along)
    return x.astype(dtype)


def made(x: Array, gamma: Any = None, beta: Any = None, **how: Any) -> Array:
    """The output of `x` by a convention, in float64; `gamma` and `beta` are (C,), or (G,) of opset 18."""
    how = USUAL | how
    word, groups = how["layout"], how["groups"]
    c = word.index("C")
    rows: Any = np.moveaxis(x.astype(np.float64), c, 1 if "N" in word else 0)
    if how["reshaped"]:  # what should have been transposed
        taken: Any = x.astype(np.float64)
        if word[-1] == "C":
            rows = taken.reshape(tuple(rows.shape))
        else:
            rows = np.moveaxis(taken.reshape(x.shape[0], *x.shape[2:], x.shape[1]), -1, 1)
    rows = rows if "N" in word else rows[None]
    shape = rows.shape
    channels = shape[1]
    rows = rows.reshape(shape[0], channels, -1)
    out = np.empty_like(rows)
    for n, g in np.ndindex(shape[0], groups):
        interleaved = how["grouping"] == "interleaved"
        members = [k for k in range(channels) if (k % groups if interleaved else k * groups // channels) == g]
        group = rows[n, members]
        mean, var = group.mean(), group.var(ddof=int(how["variance"] == "unbiased"))
        if how["statistics"] != "exact":
            mean, var = (np.float64(np.dtype(how["statistics"]).type(v)) for v in (mean, var))
        if how["divide_by"] == "variance":
            out[n, members] = (group - mean) / (var + how["eps"])
        elif how["eps_place"] == "outside":
            out[n, members] = (group - mean) / (np.sqrt(var) + how["eps"])
        else:
            out[n, members] = (group - mean) / np.sqrt(var + how["eps"])
    out = out.reshape(shape) if "N" in word else out[0].reshape(shape[1:])
    if how["reshaped"] and word[-1] != "C":
        out = np.moveaxis(out, 1, -1)
    z = out.reshape(x.shape) if how["reshaped"] else np.moveaxis(out, 1 if "N" in word else 0, c)
    if gamma is not None or beta is not None:
        ones = [1] * x.ndim
        ones[c] = x.shape[c]
        scale, shift = (
            np.repeat(v, x.shape[c] // len(v)) for v in (gamma if gamma is not None else [1.0], beta)
        )
        z = z * scale.reshape(ones) + shift.reshape(ones)
    if how["activation"] == "silu":
        return np.asarray(z / (1 + np.exp(-z)))
    return np.asarray(np.maximum(z, 0) if how["activation"] == "relu" else z)


def identified(x: Array, y: Array, **question: Any) -> dict[str, Any]:
    np.save("x.npy", x)
    np.save("y.npy", y)
    record: dict[str, Any] = identify_files("x.npy", "y.npy", Question(**question))
    return record


def named(record: dict[str, Any]) -> dict[str, Any]:
    """What the best candidate is said to be."""
    return {name: record["candidates"][0][name] for name in USUAL}


def check(x: Array, y: Array, how: dict[str, Any], **question: Any) -> dict[str, Any]:
    record = identified(x, y, **question)
    assert named(record) == USUAL | how, record["verdict"]
    best: dict[str, Any] = record["candidates"][0]
    assert best["match"]
    return record


NHWC: dict[str, Any] = {"layout": "NHWC"}
INTERLEAVED: dict[str, Any] = {"grouping": "interleaved"}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_groups_and_layouts(dtype: str, layout: str, groups: int) -> None:
    x = tensor((3, 12, 7, 9) if layout == "NCHW" else (3, 7, 9, 12))
    how = {"groups": groups, "layout": "NCHW" if groups == 1 else layout}  # 1 is the same in both
    check(x, made(x, **how).astype(dtype), how)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((6, 12), "NC"), ((3, 12, 50), "NCL"), ((3, 50, 12), "NLC"), ((12, 9, 8), "CHW"), ((9, 8, 12), "HWC"),
        ((2, 12, 4, 5, 6), "NCDHW"), ((2, 4, 5, 6, 12), "NDHWC"), ((12, 4, 5, 6), "CDHW"),
    ],
)  # fmt: skip
def test_layouts_of_every_rank(shape: tuple[int, ...], layout: str) -> None:
    x = tensor(shape)
    check(x, made(x, layout=layout).astype("f4"), {"layout": layout})


PLACES = [{}, {"eps_place": "outside"}, {"divide_by": "variance"}]
COMBINED = [
    {"eps": eps, "variance": variance, "grouping": grouping} | place
    for eps, variance, grouping, place in product(
        (1e-3, 1e-5, 1e-6, 1e-8, 0.0), ("population", "unbiased"), ("contiguous", "interleaved"), PLACES
    )
]


@pytest.mark.parametrize("how", COMBINED, ids=lambda how: "-".join(map(str, how.values())))
def test_eps_its_place_the_variance_and_the_grouping(how: dict[str, Any]) -> None:
    """In float64, where the smallest eps shows; where eps is 0, outside is inside."""
    x = tensor((3, 12, 7, 9), dtype="f8") * 0.1
    expected = how if how["eps"] or "eps_place" not in how else how | {"eps_place": "inside"}
    record = check(x, made(x, **how), expected)
    assert record["tied"] == (2 if how["eps"] == 0 and how.get("divide_by") != "variance" else 1)


@pytest.mark.parametrize("eps", [2e-5, 1e-4, 3.7e-7, 0.1])
@pytest.mark.parametrize("place", PLACES)
def test_an_eps_that_nobody_would_guess_is_fitted(eps: float, place: dict[str, Any]) -> None:
    x = tensor((3, 12, 7, 9), dtype="f8") * 0.1
    record = check(x, made(x, eps=eps, **place), {"eps": eps} | place)
    assert record["candidates"][0]["fitted"]


@pytest.mark.parametrize("statistics", ["float16", "float32"])
@pytest.mark.parametrize("how", [{}, {"eps_place": "outside"}, {"groups": 3} | INTERLEAVED], ids=str)
def test_statistics_in_fewer_digits(statistics: str, how: dict[str, Any]) -> None:
    x = tensor((3, 12, 7, 9), dtype="f8") * 0.1 + 3
    how = how | {"statistics": statistics, "eps": 1e-3}
    check(x, made(x, **how), how)


@pytest.mark.parametrize("how", [{}, {"groups": 3}, NHWC, INTERLEAVED | {"groups": 2} | NHWC], ids=str)
def test_reshaped_without_a_transpose(how: dict[str, Any]) -> None:
    x = tensor((3, 12, 7, 9) if "layout" not in how else (3, 7, 9, 12))
    record = check(x, made(x, reshaped=True, **how).astype("f4"), how | {"reshaped": True})
    assert record["candidates"][0]["command"] is None


GAMMA, BETA = np.linspace(0.5, 2, 12), np.linspace(-0.4, 0.8, 12)


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("affine", ["none", "given", "per channel", "per group"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
def test_activation_and_affine(activation: str, affine: str, layout: str, grouping: str) -> None:
    x = normal(6, 12, 7, 9) * np.arange(1, 7).reshape(6, 1, 1, 1) + tensor((6, 12, 1, 1))
    x = np.ascontiguousarray(x if layout == "NCHW" else np.moveaxis(x, 1, -1)).astype("f4")
    how = {"activation": activation, "affine": affine, "layout": layout, "grouping": grouping}
    question = {"none": {}, "given": {"gamma": "gamma.npy", "beta": "beta.npy"}}.get(affine)
    gamma, beta = (None, None) if affine == "none" else (GAMMA, BETA)
    if affine == "per group":
        classes = np.arange(12) % 4 if grouping == "interleaved" else np.arange(12) // 3
        gamma, beta = GAMMA[classes], BETA[classes]
    np.save("gamma.npy", GAMMA)
    np.save("beta.npy", BETA)
    y = made(x, gamma, beta, **how).astype("f4")
    record = check(x, y, how, **(question if question is not None else {"affine": "unknown"}))
    if question is None:
        best = record["candidates"][0]
        assert best["gamma"] == pytest.approx(gamma, abs=1e-5)
        assert best["beta"] == pytest.approx(beta, abs=1e-5)


def test_scale_and_shift_of_opset_18() -> None:
    """One a group, and given so."""
    x = tensor((6, 12, 7, 9))
    np.save("gamma.npy", GAMMA[:4])
    np.save("beta.npy", BETA[:4])
    y = made(x, GAMMA[:4], BETA[:4]).astype("f4")
    record = check(x, y, {"affine": "given"}, gamma="gamma.npy", beta="beta.npy")
    assert record["candidates"][0]["command"] is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_frameworks(path: Path) -> None:
    arrays, meta = load(path)
    given = {name: f"{name}.npy" for name in ("gamma", "beta") if name in arrays}
    for name in given:
        np.save(f"{name}.npy", arrays[name])
    record = identified(arrays["x"], arrays["y"], **given)
    best = record["candidates"][0]
    assert best["match"], record["verdict"]
    assert (best["groups"], best["layout"], best["eps"]) == (meta["groups"], meta["layout"], meta["eps"])
    assert named(record) == USUAL | {name: best[name] for name in ("groups", "layout", "eps")} | {
        "affine": "given" if given else "none",
        "statistics": best["statistics"],
    }
    assert best["statistics"] in ("exact", "float32")  # in which all of them are computed


@pytest.mark.parametrize(
    "how",
    [
        {}, {"groups": 6} | INTERLEAVED, NHWC | {"eps": 1e-3}, {"divide_by": "variance"},
        {"variance": "unbiased"}, {"variance": "unbiased", "divide_by": "variance", "eps": 1e-3},
        {"eps": 0.0, "eps_place": "outside"}, {"eps": 2e-4},
    ],
    ids=str,
)  # fmt: skip
def test_the_line_reproduces_the_output(gn: Gn, how: dict[str, Any]) -> None:
    x = tensor((3, 12, 7, 9) if "layout" not in how else (3, 7, 9, 12))
    y = made(x, **how).astype("f8")
    line = identified(x, y)["candidates"][0]["command"]
    words = shlex.split(line)
    assert words[:3] == ["gn", "normalize", "x.npy"]
    gn(*words[1:], "-o", "again.npy")
    again = np.load("again.npy")
    assert again.dtype == y.dtype
    assert np.abs(again - y).max() < 1e-12 * np.abs(y).max()


def test_what_cannot_be_told_apart_is_said() -> None:
    """One sample, and a scale and shift for every channel: any groups would do."""
    x = tensor((1, 12, 7, 9))
    record = identified(x, made(x, GAMMA, BETA).astype("f4"), affine="unknown", layout="NCHW")
    assert record["tied"] > 1
    assert record["verdict"].startswith(f"{record['tied']} conventions cannot be told apart on this data")
    assert "groups" in record["verdict"]


def agrees(record: dict[str, Any]) -> None:
    """Verdict, rows and summary tell one story."""
    rows = record["candidates"]
    matches = [row for row in rows if row["match"]]
    assert rows[: len(matches)] == matches
    assert (record["match"], record["tied"]) == (bool(matches), len(matches))
    expected = {0: "nothing matches", 1: "one convention matches"}
    several = f"{len(matches)} conventions cannot be told apart on this data; they differ in "
    assert record["verdict"].startswith(expected.get(len(matches), several))
    assert not record["verdict"].endswith(" in ")
    facts = [tuple(str(row[name]) for name in USUAL) for row in rows]
    assert len(set(facts)) == len(facts)
    if matches:
        least = min(row["rms"] for row in matches)
        assert all(row["rms"] <= 1.5 * least for row in matches)
        assert all(row["rms"] > 1.5 * least or row["precision"] is None for row in rows[len(matches) :])


@pytest.mark.parametrize("affine", ["known", "unknown"])
@pytest.mark.parametrize(("dtype", "eps"), [("f2", 1e-3), ("f4", 1e-5), ("f8", 0.0)])
def test_verdict_rows_and_exit_code_agree(gn: Gn, eps: float, dtype: str, affine: str) -> None:
    """In float32, as frameworks compute: candidates of two and three times the least error are near."""
    x = (normal(3, 12, 5, 6) * np.arange(1, 13).reshape(1, 12, 1, 1)).astype("f4")
    rows = x.reshape(3, 4, -1)
    off = rows - rows.mean(-1, keepdims=True)
    y = (off / np.sqrt((off * off).mean(-1, keepdims=True) + np.float32(eps))).reshape(x.shape)
    noise = np.random.default_rng(5).standard_normal(x.shape)
    for output in (y, y + 2e-6 * noise, noise):
        record = identified(x, output.astype(dtype), affine=affine)
        agrees(record)
        words = ("identify", "x.npy", "y.npy", "--affine", affine)
        shown = gn(*words, code=0 if record["match"] else 1).stdout.splitlines()
        assert shown[2] == record["verdict"]
        marks = [line.split()[0] for line in shown if line.startswith(("yes ", "no "))]
        assert marks == ["yes" if row["match"] else "no" for row in record["candidates"]]
        assert "rms" in shown[4].split()
        assert record["criterion"] in shown


def test_what_fits_by_rounding_goes_before_what_is_closer() -> None:
    """A candidate that is not within rounding does not match, and takes no other's place."""
    usual, odd = Structure((2, 4, 5), "NCL", 4), Structure((2, 4, 5), "NCL", 2)
    close = Candidate(Recipe(usual), Errors(10, 1e-12, 1e-2, 0, 1.0), Affine())
    fits = Candidate(Recipe(odd), Errors(10, 2e-12, 1e-6, 0, 1.0), Affine())
    first, second = judged([close, fits], float(np.finfo("f4").eps))
    assert (first.recipe, first.match) == (fits.recipe, True)
    assert (second.recipe, second.match) == (close.recipe, False)


def test_nothing_matches() -> None:
    x = tensor((3, 12, 7, 9))
    z = made(x)
    off = np.random.default_rng(3).uniform(1, 2, (3, 4)).repeat(3, 1)[..., None, None]
    by_channel = np.random.default_rng(3).uniform(1, 2, (3, 12, 1, 1))
    noise = np.random.default_rng(4).standard_normal(x.shape)
    for y, words in (
        (made(x, GAMMA, BETA), "a scale and shift for each channel would do, try --affine unknown"),
        (z * off, "which is an affine map of the input for each group: another statistic"),
        (z * by_channel, "which is an affine map of the input for each sample and channel"),
        (np.tanh(z), "no affine map of the input"),
        (noise, "no affine map of the input"),
        (x, "the output is the input"),
    ):
        record = identified(x, y.astype("f4"))
        assert not record["match"]
        assert record["verdict"].startswith("nothing matches; the ")
        assert words in record["verdict"]
        assert record["verdict"].count("which is") <= 1
        agrees(record)
        assert not any(candidate["match"] for candidate in record["candidates"])


def test_errors_are_those_of_the_whole(gn: Gn) -> None:
    """One element among those that no sample holds."""
    x = tensor((9, 12, 40, 50))
    y = made(x).astype("f4")
    y[4, 5, 6, 7] += 0.25
    record = identified(x, y)
    best = record["candidates"][0]
    off = np.abs(made(x) - y)
    assert not best["match"]
    assert best["max_abs"] == pytest.approx(off.max(), rel=1e-9)
    assert best["rms"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-6)
    gn("identify", "x.npy", "y.npy", code=1)


def test_groups_larger_than_a_block() -> None:
    x = tensor((2, 2, 600, 700))
    check(x, made(x, groups=1).astype("f4"), {"groups": 1})


@pytest.mark.parametrize("dtype", ["f2", "u1", "i4"])
def test_other_dtypes(dtype: str) -> None:
    x = (tensor((3, 12, 7, 9)) * 20 + 100).astype(dtype)
    record = identified(x, made(x, groups=3).astype("f4"))
    assert (record["candidates"][0]["groups"], record["match"]) == (3, True)


def test_memory_order_does_not_matter() -> None:
    x = tensor((3, 12, 7, 9))
    y = made(x, groups=3).astype("f4")
    expected = identified(x, y)
    assert identified(np.asfortranarray(x), np.asfortranarray(y)) == expected
    assert identified(np.asfortranarray(x), y) == expected


def test_nan_of_a_group_is_no_difference() -> None:
    x = tensor((9, 12, 7, 9))
    x[3, 4, 5, 6] = np.nan
    check(x, made(x).astype("f4"), {})


def test_command_line(gn: Gn) -> None:
    x = tensor((3, 12, 7, 9))
    np.save("x.npy", x)
    np.save("y.npy", made(x).astype("f4"))
    lines = gn("identify", "x.npy", "y.npy").stdout.splitlines()
    assert lines[0] == "x.npy -> y.npy: float32 to float32 (3, 12, 7, 9)"
    assert lines[-1] == "gn normalize x.npy --groups 4 --eps 1e-05 --layout NCHW"
    assert lines[5].split()[:4] == ["yes", "NCHW", "4", "contiguous"]
    record = json.loads(gn("identify", "x.npy", "y.npy", "--format", "json").stdout)
    assert record["schema"] == 1
    assert record["candidates"][0]["command"] == lines[-1]
    assert gn("identify", "x.npy", "y.npy", "-q").stdout == ""
    np.save("z.npy", x[:2])
    np.save("empty.npy", x[:0])
    np.save("scalar.npy", np.float32(1))
    for other in (("x.npy", "z.npy"), ("x.npy", "none.npy"), ("empty.npy",) * 2, ("scalar.npy",) * 2):
        done = gn("identify", *other, code=2)
        assert done.stderr.startswith("gn: error: ")
        assert done.stderr.count("\n") == 1


def test_pipes(shell: Shell) -> None:
    x = tensor((3, 12, 7, 9))
    np.save("x.npy", x)
    lines = shell("$gn normalize x.npy -g 4 -q -o - | $gn identify x.npy -").stdout.splitlines()
    assert lines[-1] == "gn normalize x.npy --groups 4 --eps 1e-05 --layout NCHW"


LARGE = tensor((2, 4, 5), dtype="f8") * 1e30


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.ones((1, 1, 1)), np.zeros((1, 1, 1)), True),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1)), False),
        (np.full((2, 4, 5), 3.0, "f4"), np.zeros((2, 4, 5), "f4"), True),
        (LARGE, made(LARGE, eps=0.0, layout="NCL"), True),
        (np.arange(40).reshape(2, 4, 5), np.arange(40).reshape(2, 4, 5), False),
        (LARGE * 1e270, LARGE * 1e270, False),
        (LARGE, np.abs(LARGE), False),
        (np.where(LARGE > 0, LARGE, np.inf), np.where(LARGE > 0, np.inf, 1.0), False),
        (np.arange(12.0), (np.arange(12) - 5.5) / np.arange(12).std(), True),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else str(value),
)  # fmt: skip
def test_odd_tensors(x: Array, y: Array, match: bool) -> None:
    """Of one element, constant, huge, of integers, of one axis."""
    assert identified(x, y)["match"] is match


def test_nothing_finite_is_trouble(gn: Gn) -> None:
    np.save("x.npy", np.ones((2, 4, 5)))
    np.save("y.npy", np.full((2, 4, 5), np.nan))
    assert gn("identify", "x.npy", "y.npy", code=2).stderr.startswith("gn: error: y.npy: has no finite value")


@pytest.mark.parametrize("affine", ["known", "unknown"])
def test_memory_is_bounded(affine: str) -> None:
    x = tensor((32, 16, 100, 100))  # 20 MB; of both 41, as float64 82
    np.save("x.npy", x)
    np.save("y.npy", made(x).astype("f4"))
    del x
    tracemalloc.start()
    record = identify_files("x.npy", "y.npy", Question(affine=affine, jobs=1, memory=4 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record["match"]
    assert peak < 25 << 20


@pytest.mark.parametrize("affine", ["known", "unknown"])
@pytest.mark.parametrize("mean", [0, 1000])
def test_arithmetic_in_float32_misleads_nobody(affine: str, mean: float) -> None:
    """All of it, statistics included: its roundings look a bit like another eps or another variance."""
    x = normal(4, 12, 20, 24) * np.arange(1, 13, dtype="f4").reshape(1, 12, 1, 1) + np.float32(mean)
    rows = x.reshape(4, 4, -1)
    off = rows - rows.mean(-1, keepdims=True)
    y = (off / np.sqrt((off * off).mean(-1, keepdims=True) + np.float32(1e-5))).reshape(x.shape)
    if affine == "unknown":
        y = y * GAMMA.astype("f4").reshape(1, 12, 1, 1) + BETA.astype("f4").reshape(1, 12, 1, 1)
    assert y.dtype == np.float32
    record = identified(x, y, affine=affine)
    found = named(record)
    assert record["match"]
    assert found == USUAL | {name: found[name] for name in ("affine", "statistics")}
    assert not any(candidate["fitted"] for candidate in record["candidates"][: record["tied"]])
