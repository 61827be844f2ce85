"""The bytes of the output do not depend on how the work was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import normal

from gncli import group_norm

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
