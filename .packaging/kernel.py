"""What hatchling runs for a wheel: gncli/kernel.c becomes the module gncli_kernel, where that can be done.

One C file is one run of a compiler, and sysconfig knows what that takes. setuptools' build_ext would be one
thing more to fetch. It would take the caller's CFLAGS, which may change the numbers; it has no limit of time;
and where the compiler that Python was built with is not on this machine, it looks for no other.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig

# The numbers are those of numpy, to the bit: nothing that contracts or reorders, -ffast-math least of all.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-std=c11"]

SECONDS = 300  # no compiler of this file takes so long, unless it hangs

# Python has just left its bytecode beside this file; a build leaves the tree as it was.
shutil.rmtree(Path(__file__).with_name("__pycache__"), ignore_errors=True)


def compiler() -> list[str]:
    """$CC, or the one that Python was built with, or, where that is not on this machine, cc."""
    asked = os.environ.get("CC")
    words = shlex.split(asked or sysconfig.get_config_var("CC") or "cc")
    return words if asked or shutil.which(words[0]) else ["cc"]


def compiled(source: Path, folder: Path) -> Path:
    """The extension module made of `source`, in `folder`. Raises whatever stands in the way."""
    import numpy as np  # a wheel can be built without numpy, though without the module then

    flags = [*FLAGS, "-I", sysconfig.get_path("include"), "-I", np.get_include()]
    if sys.platform == "darwin":  # Python's symbols are found when it loads; $ARCHFLAGS is in the wheel's tag
        flags += ["-undefined", "dynamic_lookup", *shlex.split(os.environ.get("ARCHFLAGS", ""))]
    product = folder / f"gncli_kernel{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [*compiler(), *flags, str(source), "-o", str(product), "-lm"]
    # Caught, not passed on: pip would wait for what a compiler that is left still holds open.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines()
        errors = [line for line in said if "error" in line]
        raise ChildProcessError(f"{command[0]}: {(errors or said or [f'exit code {done.returncode}'])[0]}")
    return product.resolve(strict=True)  # it was made: hatchling fails where it was not


class KernelHook(BuildHookInterface[WheelBuilderConfig]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="gncli-", ignore_cleanup_errors=True)
        if os.environ.get("GNCLI_KERNEL") == "0" or sys.platform not in {"linux", "darwin"}:
            return
        try:
            product = compiled(Path(self.root, "gncli", "kernel.c"), Path(self.folder.name))
        except Exception as error:  # noqa: BLE001 - an installation does not fail for what gn can do without
            self.app.display_warning(f"gn will use numpy, its kernel was not compiled: {error}")
            return
        # Editable wheels take it from here as well: only gncli itself stays in the tree.
        build_data["force_include"][str(product)] = product.name
        build_data.update(pure_python=False, infer_tag=True)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.folder.cleanup()
