from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cache.stores.layout import all_specs
from cache.stores.zarr_meta import array_document, decode_strings, encode_strings, string_chunk
from tests.cache.builders import STREAMS


@pytest.mark.parametrize("path", list(all_specs(STREAMS)))
def test_documents_are_those_that_zarr_writes(path: str, tmp_path: Path) -> None:
    spec = all_specs(STREAMS)[path]
    zarr.create_array(
        tmp_path / "a",
        shape=(5, *spec.row_shape),
        chunks=(spec.chunk_rows, *spec.row_shape),
        dtype=spec.kind,
        compressors=None,
        dimension_names=list(spec.dimensions),
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    by_zarr: dict[str, Any] = json.loads((tmp_path / "a" / "zarr.json").read_text())
    assert array_document(spec, 5) == by_zarr


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_strings_survive(strings: list[str]) -> None:
    chunk = string_chunk(encode_strings(strings), len(strings), 32)
    assert decode_strings(chunk, 0, len(strings)) == strings
    assert decode_strings(chunk, 0, 32) == strings + [""] * (32 - len(strings))
    assert decode_strings(chunk, len(strings) // 2, len(strings)) == strings[len(strings) // 2 :]


def test_chunks_are_those_of_the_zarr_codec(tmp_path: Path) -> None:
    strings = ["a", "", "Ünï 你好 😀", "x" * 300]
    array = zarr.create_array(tmp_path / "a", shape=(4,), chunks=(8,), dtype="string", compressors=None)
    array[:] = np.array(strings, dtype=object)
    chunk = (tmp_path / "a" / "c" / "0").read_bytes()
    assert chunk == string_chunk(encode_strings(strings), 4, 8)


@pytest.mark.parametrize("cut", [0, 3, 6, 9, 13])
def test_short_string_chunks_are_refused(cut: int) -> None:
    chunk = string_chunk(encode_strings(["abc", "defg"]), 2, 2)
    assert len(chunk) > cut
    with pytest.raises(ValueError, match="string chunk"):
        decode_strings(chunk[:cut], 0, 2)


def test_string_chunks_that_are_not_utf8_are_refused() -> None:
    chunk = string_chunk(encode_strings(["abc"]), 1, 1).replace(b"abc", b"a\xff\xff")
    with pytest.raises(ValueError, match="utf-8"):
        decode_strings(chunk, 0, 1)
