"""The extras that errors and the README name: a clone has them."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib

import pytest
from conftest import ROOT

from gncli.errors import UsageError
from gncli.extras import how_to_install, require_extra

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
NAMED = re.compile(r"(?:gncli|\.)\[(\w+)\]")


def test_nothing_is_said_to_come_from_an_index() -> None:
    """gn is on none: pip would find nothing of that name, or something else."""
    said = [ROOT / "README.md", *(ROOT / "gncli").rglob("*.py")]
    for file in said:
        assert "pip install 'gncli" not in file.read_text(encoding="utf-8"), file


def test_the_extras_that_the_readme_names_are_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"pip install (?:--quiet )?'\.\[(\w+)\]'", readme))
    assert named == set(EXTRAS)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"test"}))
def test_the_hint_is_a_command_for_this_python(extra: str) -> None:
    where, _, command = how_to_install(extra).rpartition(", ")
    assert where == "at the root of a clone of gn"
    python, *words = shlex.split(command)
    assert python == sys.executable
    assert words == ["-m", "pip", "install", f".[{extra}]"]
    with pytest.raises(UsageError, match=f"^--some needs the extra {extra}: at the root of a clone"):
        require_extra(extra, "no_such_module", "--some")
