"""The JSON documents of a Zarr v3 cache, and the plain encoding of its string chunks."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from cache.schema import StreamSpec
from cache.stores.layout import ArraySpec, CacheAttributes, group_paths, stream_attributes

_LENGTH = struct.Struct("<I")


def array_document(spec: ArraySpec, rows: int) -> dict[str, Any]:
    """`zarr.json` of an array with this many rows: uncompressed, little-endian, chunks in one flat folder."""
    codec: dict[str, Any]
    if spec.kind == "string":
        codec, fill = {"name": "vlen-utf8", "configuration": {}}, ""
    else:
        codec = (
            {"name": "bytes", "configuration": {"endian": "little"}}
            if spec.kind != "int8"
            else {"name": "bytes"}
        )
        fill = 0.0 if spec.kind.startswith("float") else 0  # type: ignore[assignment]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *spec.row_shape],
        "data_type": spec.kind,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [spec.chunk_rows, *spec.row_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [codec],
        "dimension_names": list(spec.dimensions),
        "attributes": {},
        "storage_transformers": [],
    }


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """`zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def tree_documents(
    streams: Sequence[StreamSpec], arrays: Mapping[str, tuple[ArraySpec, int]]
) -> dict[str, dict[str, Any]]:
    """The documents of every group and array below the root, by path. arrays: specs and rows by path."""
    attributes = {f"streams/{stream.name}": stream_attributes(stream) for stream in streams}
    documents = {path: group_document(attributes.get(path, {})) for path in group_paths(streams)}
    for path, (spec, rows) in arrays.items():
        documents[path] = array_document(spec, rows)
    return documents


def root_document(
    attributes: CacheAttributes, streams: Sequence[StreamSpec], tree: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The root `zarr.json`: attributes and the consolidated metadata of the whole tree. The commit record."""
    document = group_document(attributes.to_json(streams))
    document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": dict(tree)}
    return document


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """A JSON document as UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode()


def encode_strings(strings: Sequence[str]) -> bytes:
    """Strings as the vlen-utf8 codec lays them out: for each a little-endian uint32 length and its UTF-8."""
    parts = []
    for text in strings:
        raw = text.encode()
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def string_chunk(body: bytes, n_strings: int, chunk_rows: int) -> bytes:
    """A whole chunk: count of elements, the encoded strings, empty strings up to the chunk's size."""
    return _LENGTH.pack(chunk_rows) + body + bytes(4 * (chunk_rows - n_strings))


def decode_strings(chunk: bytes, start: int, stop: int) -> list[str]:
    """Elements [start, stop) of a vlen-utf8 chunk. Raises `ValueError` if it is too short or not UTF-8."""
    if len(chunk) < 4 or _LENGTH.unpack_from(chunk)[0] < stop:
        raise ValueError(f"a string chunk of {len(chunk)} bytes does not hold {stop} elements")
    unpack, position, end = _LENGTH.unpack_from, 4, len(chunk)
    found: list[str] = []
    seen: dict[bytes, str] = {}
    for index in range(stop):
        if position + 4 > end:
            raise ValueError("a string chunk ends inside a length")
        (length,) = unpack(chunk, position)
        position += 4
        if position + length > end:
            raise ValueError("a string chunk ends inside a string")
        if index >= start:
            raw = chunk[position : position + length]
            text = seen.get(raw)
            if text is None:
                text = raw.decode()
                if len(seen) < 64:  # columns such as split repeat few values: share them
                    seen[raw] = text
            found.append(text)
        position += length
    return found
