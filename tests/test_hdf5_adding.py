"""`-o FILE.h5::/path`: one dataset of a file is written, and all else in it stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from arrays import Array, normal
from conftest import Gn
from oracle import group_norm_gold, rounded

from gncli.cli.normalize import plan_targets
from gncli.errors import OutputError, UsageError
from gncli.tensors.address import identity
from gncli.tensors.staging import Staged

X = normal(2, 4, 5, 6, mean=3)
Y = normal(3, 8, 7, mean=-1)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x.npy and y.npy; in.h5 with chunks, filters and attributes; all.h5, which is added to."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    with h5py.File("in.h5", "w") as file:
        x = file.create_dataset("conv/x", data=X, chunks=(1, 4, 5, 6), compression="gzip", shuffle=True)
        x.attrs["unit"] = "mV"
        x.attrs["other"] = file["conv"].ref
        file["time"] = np.arange(2.0)
        file["time"].make_scale("time")
        x.dims[0].attach_scale(file["time"])
        file["y"] = Y
        file["words"] = ["a", "b"]
    with h5py.File("all.h5", "w", track_order=True) as file:
        file["precious"] = np.arange(9)
        file["model/weights"] = np.ones((3, 4, 5), "f4")
        file["model/alias"] = file["model/weights"]
        file["model"].attrs["ref"] = file["model/weights"].ref
        file["list"] = np.array([file["model/weights"].ref, file["precious"].ref], h5py.ref_dtype)
        file["zlast"] = h5py.SoftLink("/precious")
        file.attrs["title"] = "kept"


def held(path: str = "all.h5") -> dict[str, Any]:
    """Every dataset of the file by every path, but those of references; and the order of its links."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        found["title"] = file.attrs.get("title")
        found[""] = [name for name in file if name in ("precious", "model", "list", "zlast")]
        file.visititems_links(lambda name, _: found.setdefault(name, None))
        for name in [name for name in found if name and name != "title"]:
            thing = file.get(name)
            if isinstance(thing, h5py.Dataset) and thing.dtype != h5py.ref_dtype:
                attributes = {key: str(thing.attrs[key]) for key in thing.attrs if not key.endswith("_LIST")}
                found[name] = (thing.dtype, thing.shape, thing[()].tobytes(), attributes)
    return found


def expected(x: Array, groups: int = 2) -> Array:
    return rounded(group_norm_gold(x, groups), x.dtype)


def read(name: str, path: str = "all.h5") -> Array:
    with h5py.File(path) as file:
        values: Array = file[name][()]
    return values


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("given", ["x.npy", "in.h5::/conv/x"])
def test_a_dataset_is_added_and_the_rest_stays(gn: Gn, given: str, force: tuple[str, ...]) -> None:
    before = held()
    gn("normalize", given, "-g", "2", "-q", "-o", "all.h5::/new/x", *force)
    after = held()
    np.testing.assert_array_equal(read("new/x"), expected(X), strict=True)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"new", "new/x"}
    with h5py.File("all.h5") as file:
        new = file["new/x"]
        assert new.attrs["gn_groups"] == 2
        assert file[file["list"][0]] == file["model/weights"] == file[file["model"].attrs["ref"]]
        if given != "x.npy":
            assert (new.chunks, new.compression, new.shuffle) == ((1, 4, 5, 6), "gzip", True)
            assert new.attrs["unit"] == "mV"
            assert "other" not in new.attrs, "a reference into another file leads nowhere"
            assert "DIMENSION_LIST" not in new.attrs
    assert sorted(os.listdir()) == ["all.h5", "in.h5", "x.npy", "y.npy"]


def test_one_run_after_another(gn: Gn) -> None:
    for number, given in enumerate(["x.npy", "y.npy", "in.h5::/y", "in.h5::/conv/x"]):
        gn("normalize", given, "-g", "2", "-q", "-o", f"new.h5::/{number}")
    for number, x in enumerate([X, Y, Y, X]):
        np.testing.assert_array_equal(read(str(number), "new.h5"), expected(x), strict=True)


def test_an_existing_dataset_needs_force(gn: Gn) -> None:
    before = Path("all.h5").read_bytes()
    done = gn("normalize", "x.npy", "-g", "2", "-q", "-o", "all.h5::/precious", code=1)
    assert done.stderr == "gn: error: all.h5::/precious: exists; use --force to overwrite it\n"
    assert Path("all.h5").read_bytes() == before
    assert sorted(os.listdir()) == ["all.h5", "in.h5", "x.npy", "y.npy"]


@pytest.mark.parametrize("given", ["x.npy", "in.h5::/conv/x"])
def test_force_replaces_one_dataset(gn: Gn, given: str) -> None:
    before = held()
    gn("normalize", given, "-g", "2", "-qf", "-o", "all.h5::/precious")
    after = held()
    np.testing.assert_array_equal(read("precious"), expected(X), strict=True)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed <= {"precious", "zlast"}
    with h5py.File("all.h5") as file:
        assert file[file["list"][1]] == file["precious"], "a reference follows"
        assert file["zlast"] == file["precious"]


def test_force_replaces_it_under_all_its_names(gn: Gn) -> None:
    gn("normalize", "x.npy", "-g", "2", "-qf", "-o", "all.h5::/model/weights")
    with h5py.File("all.h5") as file:
        assert file["model/weights"] == file["model/alias"] == file[file["list"][0]]
        assert file["model/weights"] == file[file["model"].attrs["ref"]]
        np.testing.assert_array_equal(file["model/alias"], expected(X))
        assert list(file) == ["precious", "model", "list", "zlast"]


def test_replacing_again_and_again_does_not_let_the_file_grow(gn: Gn) -> None:
    np.save("x.npy", np.resize(X, (2, 4, 20_000)))
    for _ in range(5):
        gn("normalize", "x.npy", "-g", "2", "-qf", "-o", "all.h5::/x")
    assert os.path.getsize("all.h5") < 1.5 * os.path.getsize("x.npy")


def test_into_the_input_s_own_file(gn: Gn) -> None:
    before = held("in.h5")
    gn("normalize", "in.h5::/conv/x", "-g", "2", "-q", "-o", "in.h5::/conv/normalized")
    after = held("in.h5")
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read("conv/normalized", "in.h5"), expected(X))
    with h5py.File("in.h5") as file:
        assert file["conv/normalized"].dims[0][0] == file["time"]
    done = gn("normalize", "in.h5::/y", "-g", "2", "-q", "-o", "in.h5::/y", code=1)
    assert "in.h5::/y: exists; use --force" in done.stderr
    gn("normalize", "in.h5::/y", "-g", "2", "-qf", "-o", "in.h5::/y")
    np.testing.assert_array_equal(read("y", "in.h5"), expected(Y))
    np.testing.assert_array_equal(read("conv/normalized", "in.h5"), expected(X))


def test_without_a_path_force_replaces_the_file(gn: Gn) -> None:
    gn("normalize", "x.npy", "-g", "2", "-qf", "-o", "all.h5")
    with h5py.File("all.h5") as file:
        assert list(file) == ["x"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("all.h5::/model", "all.h5::/model: is a group; give a dataset's path, or end it with /"),
        ("all.h5::/precious/x", "/precious is a dataset, not a group"),
        ("all.h5::/zlast/x", "/zlast is a link; give the path that it leads to"),
        ("text.h5::/x", "text.h5: is neither .npy nor HDF5 (it begins with b'words')"),
        ("empty.h5::/x", "empty.h5: is empty (0 bytes)"),
        ("tensor.h5::/x", "tensor.h5: is an .npy, which holds one tensor"),
        ("cut.h5::/x", "cut.h5: cannot be opened as HDF5"),
        ("folder.h5::/x", "folder.h5: is a directory"),
        ("x.npy::/x", "an .npy holds one tensor; drop '::/x'"),
    ],
)
def test_files_that_cannot_be_added_to(gn: Gn, target: str, message: str) -> None:
    Path("text.h5").write_bytes(b"words")
    Path("empty.h5").touch()
    Path("tensor.h5").write_bytes(Path("x.npy").read_bytes())
    Path("cut.h5").write_bytes(Path("all.h5").read_bytes()[:300])
    os.mkdir("folder.h5")
    before = {name: Path(name).read_bytes() for name in os.listdir() if os.path.isfile(name)}
    for force in ([], ["--force"]):
        done = gn(
            "normalize", "y.npy", "-g", "2", "-q", "-o", target, *force, code=2 if target[0] == "x" else 1
        )
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert {name: Path(name).read_bytes() for name in os.listdir() if os.path.isfile(name)} == before


def test_a_file_that_another_program_writes(gn: Gn) -> None:
    program = "import h5py, sys; f = h5py.File('all.h5', 'r+'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        done = gn("normalize", "x.npy", "-g", "2", "-q", "-o", "all.h5::/x", code=1)
        assert "all.h5: is open for writing elsewhere" in done.stderr
        writer.communicate()


def test_nobody_s_work_is_lost() -> None:
    """What another process has made of the file since it was copied is not overwritten."""
    staged = Staged("all.h5", force=False, replacing=identity("all.h5"))
    other = Staged("all.h5", force=False, replacing=identity("all.h5"))
    other.file.write(b"of another process")
    other.commit()
    with pytest.raises(OutputError, match="was changed by another process in the meantime; try again"):
        staged.commit()
    assert Path("all.h5").read_bytes() == b"of another process"
    assert sorted(os.listdir()) == ["all.h5", "in.h5", "x.npy", "y.npy"]


def test_many_processes_add_to_one_file(gn: Gn) -> None:
    """Each dataset is there if, and only if, its process said so."""
    command = [sys.executable, "-m", "gncli", "normalize", "x.npy", "-qg2", "-o"]
    runs = [subprocess.Popen([*command, f"all.h5::/{n}"], stderr=subprocess.PIPE) for n in range(6)]
    ends = [(run.communicate()[1], run.returncode) for run in runs]
    with h5py.File("all.h5") as file:
        assert [str(n) in file for n in range(6)] == [code == 0 for _, code in ends]
        assert "precious" in file
    assert all(code == 0 or b"changed by another process" in err for err, code in ends)
    assert any(code == 0 for _, code in ends)


# Several inputs


@pytest.mark.parametrize("output", ["all.h5::/deep/er/", "new.h5::/", "new.h5::"])
def test_several_inputs_into_a_group_keep_their_names(gn: Gn, output: str) -> None:
    inputs = ["x.npy", "y.npy", "in.h5::/conv/x"]
    done = gn("normalize", *inputs, "-g", "2", "--format", "json", "-o", output)
    path, _, group = output.partition("::")
    prefix = f"{path}::{group.rstrip('/')}"
    told = [json.loads(line)["output"] for line in done.stdout.splitlines()]
    assert told == [f"{prefix}/x", f"{prefix}/y", f"{prefix}/conv/x"]
    for address, x in zip(told, [X, Y, X], strict=True):
        np.testing.assert_array_equal(read(address.partition("::")[2], path), expected(x), strict=True)
    assert not os.path.exists("all.h5::")


def test_all_inputs_go_into_a_group_or_none(gn: Gn) -> None:
    before = Path("all.h5").read_bytes()
    np.save("odd.npy", normal(2, 5, 3))
    done = gn("normalize", "x.npy", "odd.npy", "-g", "2", "-q", "-o", "all.h5::/g/", code=1)
    assert done.stderr.splitlines()[0].startswith("gn: error: odd.npy: 5 channels do not divide")
    assert done.stderr.splitlines()[0].endswith("; so none of the 2 datasets is written")
    assert Path("all.h5").read_bytes() == before


def test_a_thousand_files_into_a_group(gn: Gn) -> None:
    """No descriptor of each is held: a process has 1024, as a rule."""
    os.mkdir("many")
    for number in range(300):
        np.save(f"many/{number}.npy", X[:, :, :1, :2])
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); "
    code = f"{limit}import sys; from gncli.cli import main; main()"
    names = [f"many/{number}.npy" for number in range(300)]
    subprocess.run(
        [sys.executable, "-c", code, "normalize", *names, "-qg2", "-o", "all.h5::/many/"], check=True
    )
    np.testing.assert_array_equal(read("many/299"), expected(X[:, :, :1, :2]))


@pytest.mark.parametrize(
    ("addresses", "output", "message"),
    [
        (["a.npy", "b.npy"], "o.h5::/c", "is one dataset for 2 inputs; give a group, o.h5::/c/"),
        (["a/x.npy", "b/x.npy"], "o.h5::/g/", "a/x.npy and b/x.npy would both write o.h5::/g/x"),
        (["c.npy", "x.npy", "f.h5::/x"], "o.h5::/", "x.npy and f.h5::/x would both write o.h5::/x"),
        (["a.npy", "b.npy"], "o.h5", "is one file for 2 inputs; give a folder, DIR/"),
        (["-"], "o.h5::/g/", "- has no name to keep in o.h5::/g/"),
    ],
)
def test_what_cannot_share_a_file(addresses: list[str], output: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_targets(addresses, output)
    assert message in str(caught.value)


# All or none, and resuming


@pytest.fixture
def some() -> None:
    """some.h5: /a and /b can be normalized, /t cannot."""
    with h5py.File("some.h5", "w") as file:
        file["a"], file["b"] = X, X + 1
        file["t"] = np.full((2, 4, 3), b"abc")


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("odd", ["/t", "/no", "/no*", "/"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("output", [["-o", "partial.h5"], [], ["-o", "d/"], ["-o", "partial.h5::/g/"]])
def test_one_that_cannot_be_taken_stops_all(gn: Gn, odd: str, first: bool, output: list[str]) -> None:
    inputs = ["some.h5::/a", f"some.h5::{odd}"]
    before = set(os.listdir())
    done = gn("normalize", *(inputs if first else reversed(inputs)), "-g", "2", "-q", *output, code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("gn: error")]
    assert len(errors) == 1
    assert errors[0].startswith("gn: error: some.h5")
    assert errors[0].endswith("; so none of the 2 datasets is written")
    assert done.stdout == ""
    assert [name for _, _, files in os.walk(".") for name in files if "partial" in name or "gn" in name] == []
    assert set(os.listdir()) - before <= {"d"}


@pytest.mark.usefixtures("some")
def test_other_files_are_still_done(gn: Gn) -> None:
    gn("normalize", "some.h5::/a", "no.npy", "some.h5::/t", "x.npy", "-g", "2", "-q", "-o", "d/", code=1)
    assert os.listdir("d") == ["x.npy"]


@pytest.mark.usefixtures("some")
def test_a_copy_of_the_input_is_not_taken_for_an_output(gn: Gn) -> None:
    """A file that one dataset was normalized into holds the others as they were."""
    both = ["normalize", "some.h5::/a", "some.h5::/b", "-g", "2", "--skip-existing", "-o", "out.h5"]
    gn("normalize", "some.h5::/a", "-g", "2", "-q", "-o", "out.h5")
    before = Path("out.h5").read_bytes()
    done = gn(*both, code=1)
    assert "out.h5: exists, but without the output of some.h5::/b; use --force" in done.stderr
    assert Path("out.h5").read_bytes() == before
    assert "1 skipped" in gn(*both[:2], *both[3:], "--from-file", "/dev/null").stderr
    gn(*both, "--force")
    np.testing.assert_array_equal(read("b", "out.h5"), expected(X + 1))
    whole = Path("out.h5").read_bytes()
    assert "0 done, 0 failed, 2 skipped" in gn(*both).stderr
    assert Path("out.h5").read_bytes() == whole


@pytest.mark.usefixtures("some")
def test_outputs_of_outputs_are_told_from_copies(gn: Gn) -> None:
    """Attributes of an earlier run are copied with a dataset that is not normalized again."""
    gn("normalize", "some.h5::/a", "some.h5::/b", "-g", "2", "-qf", "-o", "some.h5")
    gn("normalize", "some.h5::/a", "-g", "4", "-q", "-o", "out.h5")
    done = gn("normalize", "some.h5::/[ab]", "-g", "4", "-q", "--skip-existing", "-o", "out.h5", code=1)
    assert "without the output of some.h5::/b" in done.stderr


def test_skip_existing_looks_at_the_dataset(gn: Gn) -> None:
    words = ["--skip-existing", "-g", "2", "--from-file", "/dev/null", "-o"]
    assert "1 done, 0 failed," in gn("normalize", "x.npy", *words, "all.h5::/x").stderr
    assert "1 skipped" in gn("normalize", "x.npy", *words, "all.h5::/x").stderr
    assert "1 done, 0 failed," in gn("normalize", "y.npy", *words, "all.h5::/y").stderr
    assert "1 skipped" in gn("normalize", "y.npy", *words, "all.h5::/precious").stderr
    assert "is a group" in gn("normalize", "y.npy", *words, "all.h5::/model", code=1).stderr
    os.unlink("x.npy")
    np.save("z.npy", X + 1)
    done = gn("normalize", "y.npy", "z.npy", *words, "all.h5::/")
    assert "1 done, 0 failed, 1 skipped" in done.stderr
    np.testing.assert_array_equal(read("x"), expected(X))
    np.testing.assert_array_equal(read("z"), expected(X + 1))


def test_skip_existing_of_the_input_s_own_file(gn: Gn) -> None:
    words = ["normalize", "in.h5::/y", "-qg2", "--skip-existing", "-o", "in.h5::/z"]
    gn(*words)
    before = Path("in.h5").read_bytes()
    gn(*words)
    assert Path("in.h5").read_bytes() == before


def test_a_broken_file_is_not_taken_for_an_output(gn: Gn) -> None:
    Path("bad.h5").write_bytes(b"stands")
    done = gn("normalize", "x.npy", "-qg2", "--skip-existing", "-o", "bad.h5", code=1)
    assert "bad.h5: exists, but without the output of x.npy" in done.stderr
    done = gn("normalize", "x.npy", "-qg2", "--skip-existing", "-o", "bad.h5::/x", code=1)
    assert "bad.h5: is neither .npy nor HDF5" in done.stderr
    assert Path("bad.h5").read_bytes() == b"stands"
