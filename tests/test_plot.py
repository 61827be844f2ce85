"""Pictures: files that open, and show what they should. (They have been looked at, too.)"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn, Shell

from gncli.compare import Comparison, Pair, opened
from gncli.histogram import Histogram
from gncli.pictures import _exponents


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
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20
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
    assert done.stderr == "gn: error: --plot needs the extra: pip install 'gncli[plot]'\n"
    assert not done.stdout
