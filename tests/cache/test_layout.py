from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import CacheCorrupt, CacheError
from cache.layout import VALUES_CHUNK_BYTES, CacheAttributes, all_specs, group_paths
from cache.schema import StreamSpec
from tests.cache.builders import STREAMS

ATTRIBUTES = CacheAttributes("set", ("no", "yes"), {"command": "x"}, (1, 2), (), "abc", "")


@pytest.mark.parametrize(("dim", "dtype"), [(512, "float16"), (2304, "float32"), (3_000_000, "float32")])
def test_chunks_of_values_hold_about_two_megabytes(dim: int, dtype: str) -> None:
    spec = all_specs([StreamSpec("clip", dim, dtype, {})])["streams/clip/values"]  # type: ignore[arg-type]
    size = spec.chunk_rows * spec.row_bytes
    assert spec.chunk_rows >= 1
    assert size <= VALUES_CHUNK_BYTES < size + spec.row_bytes or spec.chunk_rows == 1


def test_parents_come_first() -> None:
    paths = group_paths(STREAMS)
    assert paths.index("streams") < paths.index("streams/clip")
    assert {path.rpartition("/")[0] for path in all_specs(STREAMS)} == {*paths} - {"streams"}


def test_attributes_survive() -> None:
    assert CacheAttributes.from_json(ATTRIBUTES.to_json(), where=Path("x")) == ATTRIBUTES


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, CacheError, "x is not a onepass cache"),
        ({"format_version": 2}, CacheError, "format version 2; this onepass reads version 1"),
        ({"superseded_videos": None}, CacheCorrupt, "incomplete or malformed"),
        ({"label_names": ["one"]}, CacheCorrupt, "incomplete or malformed"),
    ],
)
def test_other_attributes_are_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CacheAttributes.from_json(ATTRIBUTES.to_json() | change, where=Path("x"))
