"""Reading a Zarr v3 cache: one committed state, as its root record describes it.

Chunks that hold plain little-endian bytes (what the writer makes) are read straight into the caller's array;
anything else (a cache that another tool rewrote with compression) goes through the zarr library.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, CacheError, CacheNotFound
from cache.schema import CHANGEABLE_COLUMNS, StreamSpec
from cache.stores import files, relabel
from cache.stores.layout import CacheAttributes, all_specs, empty_rows, stream_from_attributes
from cache.stores.zarr_meta import decode_strings

_RELABELLED = frozenset(f"videos/{name}" for name in CHANGEABLE_COLUMNS)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """What the metadata of one array says. plain: chunks are uncompressed little-endian rows."""

    rows: int
    row_shape: tuple[int, ...]
    data_type: str
    chunk_rows: int
    separator: str
    plain: bool

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> StoredArray:
        shape = [int(size) for size in document["shape"]]
        chunks = [int(size) for size in document["chunk_grid"]["configuration"]["chunk_shape"]]
        data_type = str(document["data_type"])
        keys = document["chunk_key_encoding"]
        separator = str(keys.get("configuration", {}).get("separator", "/"))
        codecs = document["codecs"]
        if data_type == "string":
            plain = len(codecs) == 1 and codecs[0]["name"] == "vlen-utf8"
        else:
            plain = len(codecs) == 1 and codecs[0]["name"] == "bytes"
            plain = plain and codecs[0].get("configuration", {}).get("endian", "little") == "little"
        plain = plain and chunks[1:] == shape[1:] and keys["name"] == "default"
        plain = (
            plain and document["chunk_grid"]["name"] == "regular" and not document.get("storage_transformers")
        )
        return cls(shape[0], tuple(shape[1:]), data_type, chunks[0], separator, plain)

    def chunk_name(self, index: int) -> str:
        """Name of a chunk's file within the array's folder."""
        return self.separator.join(["c", str(index), *("0" for _ in self.row_shape)])


def read_root_document(path: Path) -> dict[str, Any]:
    """The root `zarr.json`. Raises `CacheNotFound`, `CacheError` (not a cache) or `CacheCorrupt` (unreadable)."""
    try:
        raw = (path / "zarr.json").read_bytes()
    except FileNotFoundError:
        if not path.exists():
            raise CacheNotFound(f"no cache at {path}") from None
        raise CacheError(f"{path} is not a onepass cache: it has no zarr.json") from None
    except NotADirectoryError:
        raise CacheError(
            f"{path} is not a onepass cache: a .zarr cache is a folder, this is a file"
        ) from None
    except OSError as error:
        raise CacheError(f"cannot read {path / 'zarr.json'}: {error.strerror}") from error
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise CacheCorrupt(f"{path / 'zarr.json'} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
        raise CacheError(f"{path} is not a onepass cache: its zarr.json has no attributes")
    return document


class ZarrReader:
    """A committed state of a `.zarr` cache (a `StoreReader`)."""

    def __init__(self, path: Path) -> None:
        document = read_root_document(path)
        self.path = path
        self.attributes = CacheAttributes.from_json(document["attributes"], where=path)
        if (journal := relabel.read_journal(path)) and journal.label_names:
            self.attributes = dataclasses.replace(self.attributes, label_names=journal.label_names)
        try:
            tree: Mapping[str, Any] = document["consolidated_metadata"]["metadata"]
            self.arrays = {
                name: StoredArray.from_document(found)
                for name, found in tree.items()
                if found["node_type"] == "array"
            }
            groups = {name: found for name, found in tree.items() if found["node_type"] == "group"}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CacheCorrupt(f"{path}: the consolidated metadata is malformed: {error!r}") from error
        self.streams = self._find_streams(groups)
        self._check_arrays()

    def _find_streams(self, groups: Mapping[str, Any]) -> dict[str, StreamSpec]:
        streams = {}
        for path, document in sorted(groups.items()):
            parent, _, name = path.rpartition("/")
            if parent != "streams":
                continue
            values = self.arrays.get(f"{path}/values")
            if values is None or len(values.row_shape) != 1:
                raise CacheCorrupt(f"{self.path}: stream {name} has no values of shape [n_tokens, dim]")
            streams[name] = stream_from_attributes(
                name, values.row_shape[0], values.data_type, document.get("attributes", {}), where=self.path
            )
        return streams

    def _check_arrays(self) -> None:
        for path, spec in all_specs(list(self.streams.values())).items():
            found = self.arrays.get(path)
            if found is None:
                raise CacheCorrupt(f"{self.path}: the array {path} is missing")
            if (found.data_type, found.row_shape) != (spec.kind, spec.row_shape):
                raise CacheCorrupt(
                    f"{self.path}: {path} is {found.data_type} {list(found.row_shape)} a row, "
                    f"not {spec.kind} {list(spec.row_shape)}"
                )

    def n_rows(self, array: str) -> int:
        """Rows of the array at this path."""
        return self.arrays[array].rows

    def read(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as a fresh array; strings as an object array of `str`."""
        if array not in _RELABELLED:
            return self._read_rows(array, start, stop)
        before = relabel.read_journal(self.path)
        rows = self._read_rows(array, start, stop)
        for journal in (before, relabel.read_journal(self.path)):  # it may have begun or ended meanwhile
            if journal:
                journal.overlay(array, start, rows)
        return rows

    def _read_rows(self, array: str, start: int, stop: int) -> NDArray[Any]:
        stored = self.arrays[array]
        if stored.data_type == "string":
            return self._read_strings(array, start, stop)
        out = empty_rows(stop - start, stored.row_shape, np.dtype(stored.data_type).newbyteorder("<"))
        self.read_into(array, start, out)
        return out

    def read_into(self, array: str, start: int, out: NDArray[Any]) -> None:
        """Fill the C-contiguous `out` with rows from `start` on. Numeric arrays only."""
        stored = self.arrays[array]
        if not stored.plain:
            out[...] = self._through_zarr(array, start, start + len(out))
            return
        row_bytes = out.dtype.itemsize * math.prod(stored.row_shape)
        flat = out.reshape(-1).view(np.uint8).data
        pieces: list[files.Piece] = []
        row, stop = start, start + len(out)
        while row < stop:
            index, within = divmod(row, stored.chunk_rows)
            count = min(stored.chunk_rows - within, stop - row)
            begin = (row - start) * row_bytes
            file = self.path / array / stored.chunk_name(index)
            pieces.append((file, within * row_bytes, flat[begin : begin + count * row_bytes]))
            row += count
        try:
            files.read_pieces(pieces)
        except OSError as error:
            file = Path(error.filename or self.path / array)
            raise self._chunk_error(file, error.strerror or str(error)) from error

    def _read_strings(self, array: str, start: int, stop: int) -> NDArray[Any]:
        stored = self.arrays[array]
        out = np.empty(stop - start, dtype=object)
        if not stored.plain:
            out[:] = self._through_zarr(array, start, stop)
            return out
        row = start
        while row < stop:
            index, within = divmod(row, stored.chunk_rows)
            count = min(stored.chunk_rows - within, stop - row)
            file = self.path / array / stored.chunk_name(index)
            try:
                found = decode_strings(file.read_bytes(), within, within + count)
            except OSError as error:
                raise self._chunk_error(file, error.strerror or str(error)) from error
            except ValueError as error:
                raise self._chunk_error(file, str(error)) from error
            out[row - start : row - start + count] = found
            row += count
        return out

    def _through_zarr(self, array: str, start: int, stop: int) -> Any:
        import zarr

        try:
            return zarr.open_group(self.path, mode="r")[array][start:stop]  # type: ignore[index]
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise CacheCorrupt(f"{self.path}: zarr cannot read {array}: {error}") from error

    def _chunk_error(self, file: Path, reason: str) -> CacheCorrupt:
        return CacheCorrupt(
            f"a chunk of {self.path} cannot be read: {file.relative_to(self.path)}: {reason}. "
            "If another process just rewrote this cache, open it again; otherwise restore it or extract again."
        )

    def close(self) -> None:
        """Nothing is held open between reads."""
