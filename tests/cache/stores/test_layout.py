from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheCorrupt, CacheError
from cache.schema import StreamSpec
from cache.stores.layout import (
    PAGE_BYTES,
    VALUES_CHUNK_BYTES,
    CacheAttributes,
    all_specs,
    empty_rows,
    group_paths,
)
from tests.cache.builders import STREAMS

ATTRIBUTES = CacheAttributes("set", ("no", "yes"), {"command": "x"}, (1, 2), (), "abc", "")


@pytest.mark.parametrize(
    ("dim", "dtype", "rows"),
    [(512, "float16", 2048), (2304, "float16", 448), (2304, "float32", 224), (3_000_000, "float32", 1)],
)
def test_chunks_of_values_hold_about_two_megabytes_in_whole_pages(dim: int, dtype: str, rows: int) -> None:
    spec = all_specs([StreamSpec("clip", dim, dtype, {})])["streams/clip/values"]  # type: ignore[arg-type]
    assert spec.chunk_rows == rows
    if rows > 1:
        assert rows * spec.row_bytes <= VALUES_CHUNK_BYTES
        assert rows * spec.row_bytes % PAGE_BYTES == 0


def test_arrays_to_read_into_begin_a_quarter_into_a_page() -> None:
    assert empty_rows(0, (3,), np.dtype("<f2")).shape == (0, 3)
    for size in (1, 1_000_000):
        rows = empty_rows(size, (3,), np.dtype("<f2"))
        assert rows.shape == (size, 3)
        assert rows.flags.c_contiguous
        assert rows.flags.writeable
        assert rows.ctypes.data % PAGE_BYTES == PAGE_BYTES // 4


def test_parents_come_first() -> None:
    paths = group_paths(STREAMS)
    assert paths.index("streams") < paths.index("streams/clip")
    assert {path.rpartition("/")[0] for path in all_specs(STREAMS)} == {*paths} - {"streams"}


def test_attributes_survive() -> None:
    assert CacheAttributes.from_json(ATTRIBUTES.to_json([]), where=Path("x")) == ATTRIBUTES


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, CacheError, "x is not a onepass cache"),
        ({"format_version": 3}, CacheError, "format version 3; this onepass reads 1 and 2"),
        ({"superseded_videos": None}, CacheCorrupt, "incomplete or malformed"),
        ({"label_names": ["one"]}, CacheCorrupt, "incomplete or malformed"),
    ],
)
def test_other_attributes_are_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CacheAttributes.from_json(ATTRIBUTES.to_json([]) | change, where=Path("x"))
