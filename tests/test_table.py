"""Long tables come in pages: every row is there once, and none is held for long."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from gncli.table import Table

STATISTICS = {"count": 4, "mean": 0.5, "std": 1.0, "min": -1.0, "max": 2.0, "nan": 0, "inf": 0}


def rows(count: int, **fields: Any) -> Iterator[dict[str, Any]]:
    for sample in range(count):
        yield {"input": "x.npy", "shape": [9, 4], "dtype": "float32", "sample": sample, **STATISTICS} | fields


def written(records: Iterator[dict[str, Any]], page: int) -> list[str]:
    stream = io.StringIO()
    table = Table(stream, page)
    for record in records:
        table.add(record)
    table.close()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("count", [1, 4, 5, 6, 9, 10, 11, 1000])
def test_pages_make_one_table(count: int) -> None:
    header, *lines = written(rows(count), 5)
    assert header.split() == ["input", "shape", "dtype", "sample", *STATISTICS]
    assert [int(line.split()[4]) for line in lines] == list(range(count))
    assert len(set(map(len, [header, *lines]))) == 1


def test_a_table_of_one_page_is_as_narrow_as_it_may_be() -> None:
    assert written(rows(5), 5) == written(rows(5), 1000)


def test_wide_numbers_fit_columns_that_are_laid_out_before_they_come() -> None:
    wide = rows(9, mean=-1.23457e-105)
    lines = written((next(rows(1)) if i < 5 else record for i, record in enumerate(wide)), 5)
    assert len(set(map(len, lines))) == 2  # which take a digit more than all others
    assert {line.split()[6] for line in lines[6:]} == {"-1.23457e-105"}


def test_what_is_said_of_all_rows_comes_last() -> None:
    decoded = {"stored_dtype": "int16", "scale_factor": 0.1, "missing": 1}
    blank = dict.fromkeys(
        ("add_offset", "_Unsigned", "dtype", "_FillValue", "missing_value", "valid_range", "valid_min",
         "valid_max", "default_fill", "ignored")
    )  # fmt: skip
    records = rows(12, layout="CL", one_sample=True, decoded={**decoded, **blank})
    lines = written(records, 5)
    assert lines[-3:] == [
        "layout CL has no N: the whole tensor is one sample", "", "decoded: scale_factor 0.1; 12 missing"
    ]  # fmt: skip
    assert sum(line.startswith("input") for line in lines) == 1


def test_few_records_are_held() -> None:
    stream = io.StringIO()
    table = Table(stream, 5)
    for number, record in enumerate(rows(1000)):
        table.add(record)
        assert len(stream.getvalue().splitlines()) >= number - 5
