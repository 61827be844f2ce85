"""Files that a command would both read and write, or write twice, under whatever names: a usage error."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import normal
from conftest import Gn

LINKS = ("same", "dotted", "symbolic", "hard", "through a folder")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.npy", "y.npy"):
        np.save(name, normal(2, 4, 3))
    np.save("c.npy", normal(4))
    with h5py.File("f.h5", "w") as file:
        file["a"], file["b"], file["c"] = normal(2, 4, 3), normal(2, 4, 3), normal(4)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def another_name(name: str, link: str) -> str:
    """Another name of the file, whose suffix is kept."""
    match link:
        case "dotted":
            return f"./{name}"
        case "symbolic":
            os.symlink(name, f"soft {name}")
            return f"soft {name}"
        case "hard":
            os.link(name, f"hard {name}")
            return f"hard {name}"
        case "through a folder":
            os.symlink(".", "folder")
            return f"folder/{name}"
    return name


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("stats in.svg --plot {}", "the input"),
        ("diff in.svg x.npy --plot {}", "the input"),
        ("diff x.npy in.svg --plot {}", "the input"),
        ("normalize in.svg -g 2 -o z.npy --plot {}", "the input"),
        ("normalize in.svg -g 2 -n --plot {}", "the input"),
        ("normalize x.npy -g 2 --beta in.svg --plot {}", "--beta"),
        ("normalize --from-file in.svg -g 2 --plot {}", "--from-file"),
        ("stats --from-file in.svg --plot {}", "--from-file"),
    ],
)
def test_a_picture(gn: Gn, words: str, read: str, link: str) -> None:
    os.rename("c.npy" if "beta" in words else "y.npy", "in.svg")
    if "from-file" in words:
        Path("in.svg").write_text("x.npy\n")
    picture = another_name("in.svg", link)
    before = contents()
    done = gn(*(word.format(picture) for word in words.split()), code=2)
    message = f"gn: error: {picture}: --plot would overwrite {read} in.svg; name another file\n"
    assert (done.stdout, done.stderr) == ("", message)
    assert contents() == before


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("words", "read", "name"),
    [
        ("normalize x.npy -g 2 --gamma c.npy", "--gamma", "c.npy"),
        ("normalize x.npy -g 2 --beta c.npy", "--beta", "c.npy"),
        ("normalize x.npy -g 2 --gamma f.h5::/c", "--gamma", "f.h5"),
        ("normalize x.npy f.h5::/a -g 2 --gamma c.npy", "--gamma", "c.npy"),
        ("normalize --from-file list -g 2", "--from-file", "list"),
    ],
)
def test_an_output(gn: Gn, words: str, read: str, name: str, link: str) -> None:
    Path("list").write_text("x.npy\n")
    output = another_name(name, link)
    before = contents()
    if "f.h5::/a" in words:  # one output of several
        os.makedirs("out")
        os.symlink(os.path.abspath(output), "out/x.npy")
        output, before = "out/", contents()
    done = gn(*words.split(), "-f", "-o", output, code=2)
    shown = "out/x.npy" if output == "out/" else output
    given = "f.h5::/c" if name == "f.h5" else name
    assert (
        done.stderr == f"gn: error: {shown}: the output would overwrite {read} {given}; name another file\n"
    )
    assert contents() == before


def test_the_default_output(gn: Gn) -> None:
    os.rename("c.npy", "x.gn.npy")
    done = gn("normalize", "x.npy", "-g", 2, "-f", "--gamma", "x.gn.npy", code=2)
    assert done.stderr.startswith("gn: error: x.gn.npy: the output would overwrite --gamma x.gn.npy; ")


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_an_output_and_the_picture(gn: Gn, link: str) -> None:
    Path("p.svg").write_text("an older picture")
    os.rename(another_name("p.svg", link), "out")
    done = gn("normalize", "x.npy", "-g", 2, "-f", "-o", "out", "--plot", "p.svg", code=2)
    assert done.stderr == "gn: error: p.svg: --plot would overwrite the output out; name another file\n"
    assert Path("p.svg").read_text() == "an older picture"


def test_two_outputs_that_are_one_file(gn: Gn) -> None:
    os.mkdir("out")
    np.save("out/x.npy", np.zeros(1))
    os.link("out/x.npy", "out/y.npy")
    done = gn("normalize", "x.npy", "y.npy", "-g", 2, "-f", "-o", "out/", code=2)
    assert "out/y.npy: the output would overwrite the output out/x.npy" in done.stderr


def test_an_output_that_is_another_input(gn: Gn) -> None:
    os.mkdir("out")
    os.link("y.npy", "out/x.npy")
    before = contents()
    done = gn("normalize", "x.npy", "y.npy", "-g", 2, "-f", "-o", "out/", code=2)
    assert "out/x.npy: the output would overwrite the input y.npy" in done.stderr
    assert contents() == before


@pytest.mark.parametrize("link", LINKS)
def test_an_input_may_be_replaced_by_its_own_output(gn: Gn, link: str) -> None:
    gn("normalize", "x.npy", "-g", 2, "-q", "-o", "want.npy")
    output = another_name("x.npy", link)
    gn("normalize", "x.npy", "-g", 2, "-q", "-f", "-o", output)
    assert Path(output).read_bytes() == Path("want.npy").read_bytes()


def test_what_only_reads_one_file_twice(gn: Gn) -> None:
    words = ["normalize", "f.h5::/a", "-g", "2", "-q", "--gamma", "f.h5::/c", "--beta", "f.h5::/c"]
    for output in ("-o want.npy", "", "-f -o f.h5"):
        gn(*words, *output.split())
    for path in ("f.gn.h5", "f.h5"):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["a"], np.load("want.npy"))
    gn("diff", "x.npy", "x.npy", "--plot", "p.svg")
