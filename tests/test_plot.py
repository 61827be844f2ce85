"""Pictures: files that open, and show what they should. (They have been looked at, too.)"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import matplotlib.image
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn, Shell

from gncli.compare import Comparison, Pair, opened
from gncli.histogram import Histogram
from gncli.pictures import _exponents
from gncli.words import printable


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal(3, 8, 10, 12, mean=2))


def texts(path: str) -> list[str]:
    """What is written in an SVG."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", Path(path).read_text(encoding="utf-8"))


def drawn(path: str) -> Array:
    """The pixels of a PNG, which must not be blank."""
    pixels: Any = matplotlib.image.imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 300
    colours = np.ascontiguousarray(pixels * 255, np.uint8).view(np.uint32)  # a number each
    assert len(np.unique(colours)) > 20
    return np.asarray(pixels)


COMMANDS = {
    "stats": ["stats", "x.npy", "-g", "2"],
    "normalize": ["normalize", "x.npy", "-g", "2", "-f"],
    "dry": ["normalize", "x.npy", "-g", "2", "-n"],
    "diff": ["diff", "x.npy", "y.npy", "-g", "2"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_files_open(gn: Gn, name: str, suffix: str) -> None:
    np.save("y.npy", normal(3, 8, 10, 12, mean=2) * 1.01)
    gn(*COMMANDS[name], "-q", "--plot", f"p [1].{suffix}", code=int(name == "diff"))
    data = Path(f"p [1].{suffix}").read_bytes()
    match suffix.lower():
        case "png":
            drawn(f"p [1].{suffix}")
        case "svg":
            assert data.rstrip().endswith(b"</svg>")
        case "pdf":
            assert data.startswith(b"%PDF-")
            assert data.rstrip().endswith(b"%%EOF")


def test_words_of_stats(gn: Gn) -> None:
    gn("stats", "x.npy", "-g", "2", "--plot", "p.svg")
    shown = texts("p.svg")
    assert "x.npy: float32 (3, 8, 10, 12) NCHW" in shown
    for words in ("histogram", "value", "mean", "standard deviation", "sample", "group"):
        assert words in shown


def test_words_and_colours_of_normalize(gn: Gn) -> None:
    gn("normalize", "x.npy", "-g", "2", "--plot", "p.svg")
    shown = texts("p.svg")
    for words in ("before", "after", "mean before", "standard deviation before"):
        assert words in shown
    picture = Path("p.svg").read_text(encoding="utf-8").lower()
    assert "#0072b2" in picture
    assert "#d55e00" in picture


def test_words_of_diff(gn: Gn) -> None:
    np.save("y.npy", normal(3, 8, 10, 12, mean=2) * 1.01)
    gn("diff", "x.npy", "y.npy", "--plot", "p.svg", code=1)
    shown = texts("p.svg")
    assert "a: x.npy, b: y.npy" in shown
    for words in ("error", "a - b", "error against magnitude", "mean of a - mean of b", "channel"):
        assert words in shown


def test_a_group_that_stands_out_is_seen(gn: Gn) -> None:
    """The heat map of the standard deviation: its brightest colour is where the largest is."""
    x = normal(4, 8, 10, 12)
    x[2, 4:] *= 9
    np.save("x.npy", x)
    gn("stats", "x.npy", "-g", "2", "--plot", "p.png")
    pixels = drawn("p.png")[..., :3]
    brightest = np.all(np.abs(pixels - np.array([253, 231, 55]) / 255) < 0.02, axis=-1)
    rows, columns = np.nonzero(brightest)
    third = pixels.shape[1] * 2 // 3  # the right one of three
    assert columns.size
    inside = columns[(columns > third) & (columns < third + pixels.shape[1] // 4)]
    assert inside.min() > third + pixels.shape[1] // 10  # of two groups the second
    assert 0.45 < np.median(rows) / pixels.shape[0] < 0.75  # of four samples the third


def test_odd_tensors(gn: Gn) -> None:
    for array in (
        np.full((2, 4, 3), np.nan),
        np.ones((2, 4, 3)),
        np.arange(7.0),
        np.zeros((2, 0, 3)),
        np.array(3),
    ):
        np.save("x.npy", array)
        gn("stats", "x.npy", "--plot", "p.png")
        gn("diff", "x.npy", "x.npy", "--plot", "d.png")
        matplotlib.image.imread("p.png")
        matplotlib.image.imread("d.png")


def test_errors_that_float64_cannot_hold(gn: Gn) -> None:
    np.save("x.npy", np.array([[1.7e308, 1.0]]))
    np.save("y.npy", np.array([[-1.7e308, 2.0]]))
    done = gn("diff", "x.npy", "y.npy", "--plot", "p.png", code=1)
    assert done.stderr == "gn: warning: p.png: not drawn, for float64 cannot hold the errors\n"
    np.save("y.npy", np.array([[1.6e308, 2.0]]))
    done = gn("diff", "x.npy", "y.npy", "--plot", "p.png", code=1)
    assert done.stderr == "gn: warning: p.png: not drawn, for errors are beyond 1e+300\n"
    done = gn("stats", "x.npy", "--plot", "p.png", code=1)
    assert "p.png: cannot be drawn: values beyond 1e+300" in done.stderr


def test_a_dollar_is_no_mathematics(gn: Gn) -> None:
    np.save("a$b_{c$.npy", normal(2, 4, 3))
    gn("stats", "a$b_{c$.npy", "--plot", "p.svg")
    assert any(text.startswith("a$b_{c$.npy") for text in texts("p.svg"))


NAMES = [
    "中文", "العربية", "😀", "e\x1b[31mred", "two\nlines", "bell\x07", "right\u202eleft", "a\\$b$", "\ufffe",
    "x" * 200, os.fsdecode(b"f\xff"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_the_font_or_xml_lacks(gn: Gn, name: str) -> None:
    """A picture, and not a word of matplotlib's; in an SVG, what no terminal shows is escaped there, too."""
    try:
        os.rename("x.npy", f"{name}.npy")
    except OSError:
        pytest.skip("the file system takes text only")
    for suffix in ("png", "svg", "pdf"):
        done = gn("stats", f"{name}.npy", "-q", "--plot", f"p.{suffix}")
        assert (done.stdout, done.stderr) == ("", "")
    words = " ".join("".join(node.itertext()) for node in ElementTree.parse("p.svg").iter())
    assert printable(f"{name}.npy") in words
    drawn("p.png")


SETTINGS = (
    "backend: nonsense", "nonsense: 1", "text.usetex: True", "savefig.dpi: 1000", "font.size: abc",
    "no colon", "font.family: Nonexistent", "path.effects: 1", "image.cmap: nope", "axes.facecolor: black",
)  # fmt: skip


def test_settings_of_the_folder_and_the_environment_change_nothing(shell: Shell) -> None:
    shell("$gn stats x.npy -q --plot want.png")
    Path("matplotlibrc").write_text("\n".join(SETTINGS))
    for environment in ("", "MPLBACKEND=nonsense MPLCONFIGDIR=/dev/null/x"):
        done = shell(f"{environment} $gn stats x.npy -q --plot p.png")
        assert (done.stdout, done.stderr) == ("", "")
        np.testing.assert_array_equal(drawn("p.png"), drawn("want.png"))


def test_settings_that_matplotlib_cannot_read(shell: Shell) -> None:
    Path("matplotlibrc").write_bytes(b"\xff\xfe")
    done = shell("$gn stats x.npy --plot p.png", code=2)
    assert done.stderr.startswith("gn: error: --plot cannot load matplotlib: ")
    assert done.stderr.endswith("; look at the file matplotlibrc in this folder, or in its own\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("bad", ["nothing.npy", "bad.npy", "bad.h5::/x", "x.h5::/none*"])
def test_an_input_that_fails(gn: Gn, bad: str) -> None:
    """Its error, and no other; the picture that stood there stays."""
    Path("bad.npy").write_bytes(b"")
    Path("bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with h5py.File("x.h5", "w") as file:
        file["x"] = 1
    Path("p.svg").write_text("an older picture")
    for words, code in ((["stats", bad], 1), (["normalize", bad], 1), (["diff", bad, "x.npy"], 2)):
        done = gn(*words, "--plot", "p.svg", code=code)
        assert done.stderr.startswith("gn: error: ")
        assert done.stderr.count("\n") == 1
    assert Path("p.svg").read_text() == "an older picture"
    for command in ("stats", "normalize"):
        Path("list").write_text(f"{bad}\nx.npy\n")
        done = gn(command, "--from-file", "list", "--plot", "p.svg", code=2)
        assert "is a picture of one tensor, not of 2; name one" in done.stderr
        Path("list").write_text("")
        done = gn(command, "--from-file", "list", "--plot", "p.svg", code=2)
        assert "is a picture of one tensor, not of 0; name one" in done.stderr


def test_errors_by_magnitude() -> None:
    a = np.array([[1.5, -3.0, 0.0, 5.0], [np.nan, 4.25, 100.0, 7.0]])
    b = np.array([[1.0, -3.0, 1.0, 4.0], [1.0, 4.0, 101.0, 0.0]])
    np.save("a.npy", a)
    np.save("b.npy", b)
    histogram = Histogram(-7.0, 7.0, 101)
    with opened("a.npy", "b.npy", Comparison()) as pair:
        assert isinstance(pair, Pair)
        found = _exponents(pair, histogram)
    assert found == {(0, -1): 1, (0, 0): 1, (2, 0): 1, (2, -2): 1, (6, 0): 1, (None, 2): 1}
    assert histogram.counts.tolist() == np.histogram([0.5, 0, -1, 1, 0.25, -1, 7], 101, (-7, 7))[0].tolist()


def test_the_column_where_b_is_0(gn: Gn) -> None:
    """It is drawn where it is needed, also if it is the only one, and at the ends of float64."""
    a = normal(3, 8, 10, 12)
    b = a.copy()
    b[0, 0] = 0
    for left, right, labels in (
        (a, b, 1),
        (a, np.zeros_like(a), 1),
        (a, a * np.float32(1.01), 0),
        (np.array([5e-324, 1e299, 1.0]), np.array([0.0, 5e-324, 1e299]), 1),
        (np.array([True, False]), np.array([False, True]), 1),
        (np.array([1j, 2]), np.array([0, 2 + 1j]), 1),
    ):
        np.save("a.npy", left)
        np.save("b.npy", right)
        gn("diff", "a.npy", "b.npy", "--plot", "p.svg", code=1)
        root = ElementTree.parse("p.svg").getroot()
        axes = next(part for part in root.iter() if part.get("id") == "axes_2")
        ticks = [
            "".join(part.itertext()).strip()
            for part in axes.iter()
            if (part.get("id") or "").startswith("xtick_")
        ]
        assert ticks.count("0") == labels


def test_what_cannot_be_drawn(gn: Gn) -> None:
    np.save("z.npy", normal(2, 4))
    assert "none of .png, .svg, .pdf" in gn("stats", "x.npy", "--plot", "p.jpg", code=2).stderr
    assert "not of 2; name one" in gn("stats", "x.npy", "z.npy", "--plot", "p.png", code=2).stderr
    assert "drop --by" in gn("stats", "x.npy", "--by", "sample", "--plot", "p.png", code=2).stderr
    done = gn("stats", "x.npy", "--plot", "no/p.png", code=1)
    assert "there is no folder 'no'" in done.stderr
    done = gn("diff", "x.npy", "z.npy", "--plot", "p.png", code=1)
    assert done.stderr == "gn: warning: p.png: not drawn, for the shapes differ\n"
    assert not Path("p.png").exists()
    assert not list(Path().glob(".*.tmp"))


def test_without_matplotlib(shell: Shell) -> None:
    """In a process that has none."""
    block = "import sys; sys.modules['matplotlib'] = None; from gncli.cli import main; "
    run = f"""{block}sys.argv = ['gn', 'stats', 'x.npy', '--plot', 'p.png']; main()"""
    done = shell('"$1" -c "$2"', sys.executable, run, code=2)
    how = f"at the root of a clone of gn, {sys.executable} -m pip install '.[plot]'"
    assert done.stderr == f"gn: error: --plot needs the extra plot: {how}\n"
    assert not done.stdout


@pytest.mark.parametrize("address", ["f.h5", "f.h5::/?", "f.h5::/**"])
def test_several_datasets_are_a_usage_error(gn: Gn, address: str) -> None:
    with h5py.File("f.h5", "w") as file:
        file["a"], file["b"] = np.ones((2, 4, 3)), np.ones((2, 4, 3))
    message = "--plot p.svg is a picture of one tensor, not of 2; name one"
    for words in (["stats", address], ["stats", "f.h5::/a", "f.h5::/b"], ["diff", address, address]):
        done = gn(*words, "--plot", "p.svg", code=2)
        assert message in done.stderr
        assert "bug" not in done.stderr
        assert done.stdout == ""
    assert not Path("p.svg").exists()


def test_a_title_that_is_not_utf8(gn: Gn) -> None:
    name = os.fsdecode(b"caf\xe9.npy")
    os.rename("x.npy", name)
    for words in (["stats", name], ["normalize", name, "-g", "2"], ["diff", name, name]):
        for suffix in ("svg", "png", "pdf"):
            picture = os.fsdecode(b"p\xe9.") + suffix
            gn(*words, "-q", "-f" if words[0] == "normalize" else "-q", "--plot", picture)
            os.rename(picture, f"p.{suffix}")
        assert any("caf\\udce9.npy" in text for text in texts("p.svg"))
