"""The bytes of the output do not depend on how the work was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import normal

from gncli import group_norm, kernel

pytestmark = pytest.mark.usefixtures("passes")

CUTS = [
    ("NCHW", (4, 32, 61, 63), 8),
    ("NCHW", (1, 4, 601, 603), 1),  # one group is larger than the smaller budget
    ("NHWC", (4, 61, 63, 32), 8),
    ("NHWC", (1, 601, 603, 4), 1),
    ("CHWN", (32, 61, 63, 4), 8),
    ("HWCN", (61, 63, 32, 4), 8),
    ("NHCW", (4, 61, 32, 63), 8),
    ("CHW", (32, 121, 123), 8),
    ("NC", (60_001, 8), 4),
    ("NLC", (3, 20_001, 8), 4),
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("grouping", ["contiguous", "interleaved"])
@pytest.mark.parametrize(("layout", "shape", "groups"), CUTS)
def test_bytes_do_not_depend_on_jobs_or_memory(
    layout: str, shape: tuple[int, ...], groups: int, grouping: str, order: Any
) -> None:
    x = np.asarray(normal(*shape, mean=30), order=order)
    outputs = {
        group_norm(x, groups, layout=layout, grouping=grouping, jobs=jobs, memory=memory).tobytes()
        for jobs in (1, 2)
        for memory in (1 << 20, 1 << 30)
    }
    assert len(outputs) == 1


def test_a_large_beta_is_of_its_own_channels() -> None:
    """What is computed anew beside it says nothing of the other channels of a block."""
    x = normal(1, 8, 256, 256)
    exact = group_norm(x.astype("f8"), 8)[0, 5].ravel()
    beta = np.array([1e6] * 4 + [100.0] * 4)
    for value in exact[np.abs(exact + 0.015) < 0.001][:12]:
        low = np.float32(value + 1e-3)
        beta[5] = (float(low) + float(np.nextafter(low, np.float32(1)))) / 2 - value  # half way between two
        outputs = [group_norm(x, 8, beta=beta, memory=memory).tobytes() for memory in (1 << 20, 64 << 20)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "passes", None)
            outputs.append(group_norm(x, 8, beta=beta).tobytes())
        assert len(set(outputs)) == 1
