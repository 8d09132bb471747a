"""The HDF5 form of a cache: written once, in one go, then only read.

HDF5 files do not survive a crash while they are open for writing, so no cache is ever changed in place: see
cache/writer.py for how an `.h5` cache grows.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, CacheError, CacheLocked, CacheNotFound
from cache.schema import StreamSpec
from cache.stores import files
from cache.stores.hdf5_target import Hdf5Target, signals_wait
from cache.stores.layout import (
    PAGE_BYTES,
    ArraySpec,
    CacheAttributes,
    all_specs,
    group_paths,
    require_format,
    stream_attributes,
    stream_from_attributes,
)

_LIBVER = ("v108", "latest")  # 1.8 is the first format that holds attributes above 64 KiB
_ALIGN_FROM_BYTES = 1024 * 1024
_JSON_ATTRIBUTES = ("label_names", "provenance")


@dataclass(frozen=True, slots=True)
class _Stored:
    """One dataset. offset: where its rows begin in the file, None unless they are one uncompressed block."""

    dataset: h5py.h5d.DatasetID
    rows: int
    row_bytes: int
    offset: int | None


class Hdf5Reader:
    """An `.h5` cache (a `StoreReader`). Files are complete and never change; HDF5's lock only tells of other programs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self.attributes = CacheAttributes.from_json(_root_attributes(self._file, path), where=path)
            self.streams = self._find_streams()
            self._arrays = self._find_arrays()
        except BaseException:
            self._file.close()
            raise

    def _find_streams(self) -> dict[str, StreamSpec]:
        streams = {}
        for name, group in sorted(self._file.get("streams", {}).items()):
            values = group.get("values")
            if values is None or values.ndim != 2:
                raise CacheCorrupt(f"{self.path}: stream {name} has no values of shape [n_tokens, dim]")
            found = {
                "fingerprint": _from_json(group.attrs.get("fingerprint"), self.path),
                "optional": group.attrs.get("optional", False),
            }
            streams[name] = stream_from_attributes(
                name, int(values.shape[1]), values.dtype.name, found, where=self.path
            )
        return streams

    def _find_arrays(self) -> dict[str, _Stored]:
        arrays = {}
        for path, spec in all_specs(list(self.streams.values())).items():
            try:
                dataset = h5py.h5d.open(self._file.id, path.encode())  # a third of the time of `file[path]`
            except (KeyError, ValueError, OSError, RuntimeError) as error:
                raise CacheCorrupt(f"{self.path}: the array {path} is missing") from error
            dtype, shape = dataset.dtype, dataset.shape
            text = h5py.check_string_dtype(dtype) is not None
            if (
                text != (spec.kind == "string")
                or not (text or dtype == spec.dtype)
                or shape[1:] != spec.row_shape
            ):
                raise CacheCorrupt(
                    f"{self.path}: {path} is {'string' if text else dtype} {list(shape[1:])} a row, "
                    f"not {spec.kind} {list(spec.row_shape)}"
                )
            # None unless the values lie in the file as one plain block
            offset = None if text else dataset.get_offset()
            arrays[path] = _Stored(dataset, int(shape[0]), 0 if text else spec.row_bytes, offset)
        return arrays

    def n_rows(self, array: str) -> int:
        """Rows of the array at this path."""
        return self._arrays[array].rows

    def read(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as a fresh array; strings as an object array of `str`."""
        dataset = h5py.Dataset(self._arrays[array].dataset)
        try:
            if h5py.check_string_dtype(dataset.dtype) is not None:
                out = np.empty(stop - start, dtype=object)
                out[:] = dataset.asstr()[start:stop]
                return out
            return np.ascontiguousarray(dataset[start:stop])
        except (OSError, ValueError, RuntimeError) as error:
            raise CacheCorrupt(f"{self.path}: {array} cannot be read: {error}") from error

    def read_into(self, array: str, start: int, out: NDArray[Any]) -> None:
        """Fill the C-contiguous `out` with rows from `start` on. Numeric arrays only."""
        if not len(out):
            return
        stored = self._arrays[array]
        try:
            if stored.offset is not None and start + len(out) <= stored.rows:
                begin = stored.offset + start * stored.row_bytes
                view = out.reshape(-1).view(np.uint8).data
                files.read_pieces([(self._file.id.get_vfd_handle(), begin, view)])
            else:
                h5py.Dataset(stored.dataset).read_direct(out, np.s_[start : start + len(out)])
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise CacheCorrupt(f"{self.path}: {array} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise CacheNotFound(f"no cache at {path}")
    if path.is_dir():
        raise CacheError(f"{path} is not a onepass cache: an .h5 cache is a file, this is a folder")
    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            taken = any(f"errno = {number}," in str(error) for number in (errno.EAGAIN, errno.EACCES))
            if "unable to lock file" not in str(error) or taken:
                raise
            return h5py.File(path, "r", locking=False)  # a share without locks
    except OSError as error:
        if "truncated" in str(error):
            raise CacheCorrupt(f"{path} is cut short: {error}. Restore it or extract again.") from error
        if "unable to lock file" in str(error) or "already open for write" in str(error):
            raise CacheLocked(
                f"{path} cannot be read: another program holds it open for writing (HDF5's lock). Close it there; "
                "a program that died while writing leaves such a mark too: h5clear -s FILE removes it"
            ) from error
        raise CacheError(f"{path} is not a onepass cache: HDF5 cannot open it ({error})") from error


def _root_attributes(file: h5py.File, path: Path) -> dict[str, Any]:
    found = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in file.attrs.items()
    }
    require_format(found, where=path)  # before the rest, which another version may encode otherwise
    for name in _JSON_ATTRIBUTES:
        found[name] = _from_json(found.get(name), path)
    return found


def _from_json(text: Any, path: Path) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise CacheCorrupt(f"{path}: an attribute that should be JSON is not: {error}") from error


class Hdf5Builder:
    """Writes a whole HDF5 cache, of known size, to a file that nobody reads yet."""

    def __init__(
        self,
        path: Path,
        streams: Sequence[StreamSpec],
        rows: Mapping[str, int],
        attributes: CacheAttributes,
    ) -> None:
        files.remove_file(path)
        self.path = path
        self._filled = dict.fromkeys(rows, 0)
        self._target = Hdf5Target(path)
        self._file: Any = None
        try:
            with signals_wait():
                self._file = h5py.File(
                    path,
                    "w",
                    driver="fileobj",
                    fileobj=self._target,
                    libver=_LIBVER,
                    locking=False,  # its name is known to this writer alone
                    alignment_threshold=_ALIGN_FROM_BYTES,
                    alignment_interval=PAGE_BYTES,
                )
                self._lay_out(streams, rows, attributes)
        except BaseException:
            self.abandon()
            raise

    def _lay_out(
        self, streams: Sequence[StreamSpec], rows: Mapping[str, int], attributes: CacheAttributes
    ) -> None:
        for name, value in attributes.to_json(streams).items():
            if name in _JSON_ATTRIBUTES:
                self._file.attrs[name] = json.dumps(value)
            else:
                self._file.attrs[name] = np.array(value, np.int64) if isinstance(value, list) else value
        for group in group_paths(streams):
            self._file.create_group(group)
        for stream in streams:
            for name, value in stream_attributes(stream).items():
                encoded = json.dumps(value) if name == "fingerprint" else value
                self._file[f"streams/{stream.name}"].attrs[name] = encoded
        for name, spec in all_specs(streams).items():
            self._create(spec, rows[name])
        for stream in streams:
            self.append(f"streams/{stream.name}/offsets", np.zeros(1, np.int64))

    def _create(self, spec: ArraySpec, rows: int) -> None:
        dtype = h5py.string_dtype("utf-8") if spec.kind == "string" else spec.dtype
        self._file.create_dataset(spec.path, shape=(rows, *spec.row_shape), dtype=dtype)

    def append(self, array: str, rows: NDArray[Any]) -> None:
        """Write the next rows of an array."""
        start = self._filled[array]
        if len(rows):
            with signals_wait():
                self._file[array][start : start + len(rows)] = rows
            self._target.check()
        self._filled[array] = start + len(rows)

    def finish(self) -> None:
        """Close the file and wait until it is on the disk."""
        short = [name for name, count in self._filled.items() if count != self._file[name].shape[0]]
        assert not short, f"arrays not filled: {short}"
        self._close()
        self._target.check()
        files.sync([self.path])

    def abandon(self) -> None:
        """Close the file and remove it."""
        try:
            self._close()
        finally:
            files.remove_file(self.path)

    def _close(self) -> None:
        with signals_wait():
            if self._file:
                self._file.close()
            self._target.close()
