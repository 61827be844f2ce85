"""An option on the command line that has no effect is a usage error, which names what is missing.

The environment sets options for all runs: there they are no errors.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from arrays import normal
from conftest import Gn, Shell

from gncli.cli import COMMANDS
from gncli.cli import gn as group

# Of every command: what makes an option of it have no effect. All others have one in every run, or give
# a permission (--force, --allow-external, --raw), a bound (--memory) or a preview of the rest (--dry-run).
CONDITIONAL = {
    "normalize": {"null", "force", "skip_existing", "format", "hist"},
    "stats": {"null", "groups", "channels_per_group", "grouping", "layout", "format", "hist"},
    "info": {"null", "format"},
    "diff": {"format"},
    "identify": {"gamma", "beta", "format"},
}
EFFECTIVE = {
    "normalize": {
        "inputs", "from_file", "groups", "channels_per_group", "layout", "grouping", "eps", "like", "gamma",
        "beta", "divide_by", "dtype", "nan", "output", "dry_run", "jobs", "memory", "dask", "allow_external",
        "raw", "quiet", "progress", "plot",
    },
    "stats": {
        "inputs", "from_file", "by", "jobs", "memory", "dask", "allow_external", "force", "raw", "quiet",
        "progress", "plot",
    },
    "info": {"inputs", "from_file", "allow_external", "raw", "quiet"},
    "diff": {
        "a", "b", "rtol", "atol", "max_ulp", "nan_differ", "groups", "channels_per_group", "layout",
        "grouping", "jobs", "memory", "dask", "allow_external", "force", "raw", "quiet", "progress",
        "plot",
    },
    "identify": {
        "x", "y", "layout", "affine", "jobs", "memory", "allow_external", "force", "raw", "quiet", "progress",
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal(2, 6, 5, 7))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_decided(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert {param.name for param in command.params} == CONDITIONAL[name] | EFFECTIVE[name]


BY = "--by group, --by channel or --plot"
NEEDS = [
    ("stats x.npy -g 5", f"--groups has no effect without {BY}"),
    ("stats x.npy -g 2", f"--groups has no effect without {BY}"),
    ("stats x.npy -g 2 --by sample", f"--groups has no effect without {BY}"),
    ("stats x.npy --channels-per-group 2", f"--channels-per-group has no effect without {BY}"),
    ("stats x.npy --grouping interleaved", f"--grouping has no effect without {BY}"),
    ("stats x.npy --grouping contiguous --by sample", f"--grouping has no effect without {BY}"),
    ("stats x.npy --layout NHWC", "--layout has no effect without --by or --plot"),
    ("stats x.npy -g 2 --hist", f"--groups has no effect without {BY}"),
    ("stats x.npy -0", "-0 says how --from-file is read; give that, too"),
    ("info x.npy --null", "-0 says how --from-file is read; give that, too"),
    ("normalize x.npy -g 2 -0", "-0 says how --from-file is read; give that, too"),
    ("normalize x.npy -g 2 -f -o -", "--force has no effect without an output that is a file"),
    ("normalize x.npy -g 2 --skip-existing -o -", "--skip-existing has no effect without an output that is"),
    ("identify x.npy x.npy --gamma 2 --affine unknown", "--gamma has no effect without --affine known"),
    ("identify x.npy x.npy --beta 2 --affine unknown", "--beta has no effect without --affine known"),
    ("stats x.npy -q --format json", "--format has no effect with --quiet; drop one"),
    ("stats x.npy -q --hist", "--hist has no effect with --quiet; drop one"),
    ("info x.npy -q --format tsv", "--format has no effect with --quiet; drop one"),
    ("diff x.npy x.npy -q --format tsv", "--format has no effect with --quiet; drop one"),
    ("identify x.npy x.npy -q --format table", "--format has no effect with --quiet; drop one"),
    ("normalize x.npy -g 2 -q --format json", "--format has no effect with --quiet; drop one"),
    ("normalize x.npy -g 2 -q --hist", "--hist has no effect with --quiet; drop one"),
]


@pytest.mark.parametrize(("words", "message"), NEEDS, ids=[words for words, _ in NEEDS])
def test_no_effect_is_a_usage_error(gn: Gn, words: str, message: str) -> None:
    shown = gn(*words.split(), code=2)
    assert message in shown.stderr
    assert shown.stdout == ""
    assert not Path("x.gn.npy").exists()


@pytest.mark.parametrize(
    "words",
    [
        "stats x.npy -g 2 --by group", "stats x.npy --channels-per-group 2 --by channel", "stats x.npy -q",
        "stats x.npy --grouping interleaved -g 3 --by group --by sample", "stats x.npy -g 3 --plot p.png",
        "stats x.npy --layout NHWC --by sample", "stats x.npy --layout NHWC -g 7 --plot p.png",
        "stats x.npy -q --by channel", "stats x.npy --hist --format json", "normalize x.npy -g 2 -n -f",
        "normalize x.npy -g 2 -n --skip-existing", "normalize x.npy -g 2 -n -o -", "normalize x.npy -g 2 -f",
        "normalize x.npy -g 2 -n -f -o -", "normalize x.npy -g 2 -q --plot p.png",
        "normalize x.npy -g 2 -q -n",
        "normalize x.npy -g 2 --skip-existing -f", "diff x.npy x.npy -g 3",
        "diff x.npy x.npy -g 7 --layout NHWC",
        "diff x.npy x.npy --grouping interleaved -g 2", "info x.npy --allow-external", "info x.npy -q",
    ],
)  # fmt: skip
def test_what_has_an_effect_is_none(gn: Gn, words: str) -> None:
    pytest.importorskip("matplotlib")
    gn(*words.split())


@pytest.mark.parametrize(
    ("words", "set_to"),
    [
        ("stats x.npy", {"GROUPS": "5", "GROUPING": "interleaved", "LAYOUT": "NHWC"}),
        ("stats x.npy", {"CHANNELS_PER_GROUP": "5", "NULL": "1"}),
        ("stats x.npy --by channel", {"GROUPS": "5"}),
        ("stats x.npy --by sample", {"HIST": "1"}),
        ("stats x.npy --by sample", {"PLOT": "p.png"}),
        ("stats x.npy --hist", {"BY": "sample"}),
        ("stats x.npy -q", {"FORMAT": "json", "HIST": "1"}),
        ("stats x.npy --format json", {"QUIET": "1"}),
        ("info x.npy", {"NULL": "1"}),
        ("info x.npy -q", {"FORMAT": "json"}),
        ("normalize x.npy -g 2 -o -", {"FORCE": "1"}),
        ("normalize x.npy -g 2 -o -", {"SKIP_EXISTING": "1"}),
        ("normalize x.npy -g 2", {"NULL": "1"}),
        ("normalize x.npy -g 2 -q", {"FORMAT": "json", "HIST": "1"}),
        ("diff x.npy x.npy -q", {"FORMAT": "json"}),
    ],
)
def test_the_environment_makes_no_errors(
    gn: Gn, words: str, set_to: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words.split()[0].upper()
    for name, value in set_to.items():
        monkeypatch.setenv(f"GN_{command}_{name}", value)
    gn(*words.split())


def test_what_a_person_asks_goes_before_the_environment(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GN_STATS_HIST", "1")
    rows = gn("stats", "x.npy", "--by", "sample", "--format", "json").stdout.splitlines()
    assert [json.loads(row).get("sample") for row in rows] == [0, 1]
    monkeypatch.delenv("GN_STATS_HIST")
    monkeypatch.setenv("GN_STATS_BY", "sample")
    (row,) = gn("stats", "x.npy", "--hist", "--format", "json").stdout.splitlines()
    assert "histogram" in json.loads(row)
    gn("stats", "x.npy", "--hist", "--by", "sample", code=2)


def test_gamma_of_the_environment_is_not_even_read(gn: Gn, monkeypatch: pytest.MonkeyPatch) -> None:
    gn("normalize", "x.npy", "-g", "2", "-q", "-o", "y.npy")
    monkeypatch.setenv("GN_IDENTIFY_GAMMA", "missing.npy")
    gn("identify", "x.npy", "y.npy", "--affine", "unknown")
    gn("identify", "x.npy", "y.npy", code=2)


def test_groups_by_channel_say_which_group_each_is_in(gn: Gn) -> None:
    for grouping, groups in (("contiguous", [0, 0, 0, 1, 1, 1]), ("interleaved", [0, 1] * 3)):
        words = ("stats", "x.npy", "-g", "2", "--grouping", grouping, "--by", "channel", "--format", "json")
        rows = [json.loads(line) for line in gn(*words).stdout.splitlines()]
        assert [row["group"] for row in rows] == groups
        assert [row["channel"] for row in rows] == list(range(6))
    assert '"group"' not in gn("stats", "x.npy", "--by", "channel", "--format", "json").stdout


@pytest.mark.parametrize("words", ["--by group", "--by channel", "--plot p.png"])
def test_groups_that_do_not_divide(gn: Gn, words: str) -> None:
    pytest.importorskip("matplotlib")
    shown = gn("stats", "x.npy", "-g", "5", *words.split(), code=1)
    assert shown.stderr == "gn: error: x.npy: 6 channels do not divide into 5 groups; valid: 1, 2, 3, 6\n"
    assert not Path("p.png").exists()


def test_as_processes(shell: Shell) -> None:
    done = shell("$gn stats x.npy -g 5; echo $?; GN_STATS_GROUPS=5 $gn stats x.npy -q; echo $?")
    assert done.stdout.split() == ["2", "0"]
