"""Reads arrays from .npy, .npz, .h5 and .parquet files as plain numbers: no pickle, no links that lead out of a file."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.labels.columns import KEY_COLUMNS, column_name
from cache.token_arrays import UnusableFeatures

ARRAY_SUFFIXES = frozenset({".npy", ".npz", ".h5", ".hdf5", ".parquet"})
CONTAINER_SUFFIXES = ARRAY_SUFFIXES - {".npy"}
"""Files that may hold many arrays by name."""
START_COLUMNS = ("start_seconds", "start")
END_COLUMNS = ("end_seconds", "end")
PICKLED = "holds Python objects, which are stored as pickle and would run code: they are never loaded; save plain float arrays"


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """One array: the file and, where that holds several, its name there ("" for the only one)."""

    path: Path
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}, array {self.key!r}" if self.key else str(self.path)


def shape_of(place: ArrayPlace) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype; the numbers of an .npy or .h5 file are not read for it. Raises UnusableFeatures."""
    suffix = place.path.suffix.lower()
    with _telling(place.path):
        _require_file(place.path)
        if suffix == ".npy":
            array = _opened_npy(place.path)
            return array.shape, array.dtype
        if suffix in (".h5", ".hdf5"):
            with _dataset(place) as found:
                return tuple(found.shape), np.dtype(found.dtype)
        array = read_array(place)
        return array.shape, array.dtype


def read_array(place: ArrayPlace) -> NDArray[Any]:
    """The numbers. Raises UnusableFeatures for what cannot be read and for anything but numbers."""
    suffix = place.path.suffix.lower()
    with _telling(place.path):
        _require_file(place.path)
        if suffix == ".npy":
            array = np.array(_opened_npy(place.path))
        elif suffix == ".npz":
            with place.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                array = archive[_only(archive.files, place)]
        elif suffix in (".h5", ".hdf5"):
            with _dataset(place) as found:
                array = found[()]
        else:
            array = parquet_rows(place.path, place.key)[0]
    _require_numbers(array.dtype)
    return np.asarray(array)


def array_names(path: Path) -> tuple[str, ...]:
    """The names of all arrays in an .npz or .h5 file, the ids in a .parquet file. Raises InputError where it cannot be read."""
    try:
        with _telling(path):
            if path.suffix.lower() == ".npz":
                with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                    return tuple(archive.files)
            if path.suffix.lower() == ".parquet":
                return parquet_ids(path)
            return tuple(_dataset_names(path))
    except UnusableFeatures as problem:
        raise InputError(f"{path}: {problem}") from None


def parquet_ids(path: Path) -> tuple[str, ...]:
    """Ids of a table with a row a token, in order; none where it has no column that names videos."""
    table = _table(path)
    column = _id_column(table.column_names)
    return tuple(dict.fromkeys(map(str, table[column].to_pylist()))) if column else ()


def parquet_rows(path: Path, video_id: str = "") -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Values [T, D] and, where the table has them, spans [T, 2] of one video; all rows where `video_id` is "".

    Values are one column of lists, or all columns of numbers but start and end.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _table(path)
    column = _id_column(table.column_names)
    if video_id:
        if column is None:
            raise UnusableFeatures("unusable-array", "has no column of video ids")
        table = table.filter(pc.equal(table[column].cast(pa.string()), video_id))
    start, end = (
        next((name for name in table.column_names if name.lower() in names), None)
        for names in (START_COLUMNS, END_COLUMNS)
    )
    lists = [
        f.name
        for f in table.schema
        if pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type)
    ]
    numbers = [
        f.name
        for f in table.schema
        if (pa.types.is_floating(f.type) or pa.types.is_integer(f.type)) and f.name not in (start, end)
    ]
    if len(lists) == 1:
        rows = table[lists[0]].to_pylist()
        if len({len(row) if row is not None else -1 for row in rows}) > 1:
            raise UnusableFeatures("unusable-array", f"column {lists[0]!r} has rows of several lengths")
        kind = pa.array([], table.schema.field(lists[0]).type.value_type).to_numpy(zero_copy_only=False).dtype
        values = np.array(rows, dtype=kind)
    elif numbers and not lists:
        values = np.stack([table[name].to_numpy() for name in numbers], axis=1)
    else:
        raise UnusableFeatures(
            "unusable-array", "needs one column of lists, or columns of numbers, as its features"
        )
    if start is None or end is None:
        return values, None
    return values, np.stack([table[start].to_numpy(), table[end].to_numpy()], axis=1).astype(np.float32)


def _table(path: Path) -> Any:
    """The whole table; the last one is kept, since it is asked for by every video in it."""
    status = path.stat()
    return _read_table(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _read_table(path: Path, state: tuple[int, int]) -> Any:
    """state: of the file, so that one that changed is read again."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            f"{path}: .parquet files need pyarrow: pip install 'onepass[parquet]', or save .npy files"
        ) from None
    return pq.ParquetFile(path).read()


def _id_column(names: list[str]) -> str | None:
    known = {column_name(name): name for name in names}
    return next((known[name] for name in ("id", *KEY_COLUMNS) if name in known), None)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Whatever damaged bytes lead to, as UnusableFeatures with its reason."""
    try:
        yield
    except (UnusableFeatures, InputError):
        raise
    except FileNotFoundError:
        raise UnusableFeatures("missing-file", "the file is listed but does not exist") from None
    except OSError as problem:
        if problem.errno is not None:
            raise UnusableFeatures("unreadable-file", f"cannot be read: {problem.strerror}") from None
        raise UnusableFeatures(
            "unusable-array", f"cannot be read as {path.suffix}: {_short(problem)}"
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError, MemoryError) as problem:
        text = str(problem)
        if "allow_pickle" in text or "pickled" in text or "Object arrays" in text or "Python objects" in text:
            raise UnusableFeatures("unusable-array", PICKLED) from None
        raise UnusableFeatures(
            "unusable-array", f"cannot be read as {path.suffix}: {_short(problem)}"
        ) from None


def _require_file(path: Path) -> None:
    """A pipe would be waited for without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnusableFeatures("unreadable-file", "is no regular file")


def _short(problem: Exception) -> str:
    return (" ".join(str(problem).split()) or type(problem).__name__)[:160]


def _opened_npy(path: Path) -> NDArray[Any]:
    """Mapped from the file; arrays without a number in them cannot be."""
    if not path.stat().st_size:
        raise UnusableFeatures("empty-file", "the file has zero bytes")
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise UnusableFeatures("unusable-array", "is no .npy file" + _pickle_hint(path))
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except ValueError as problem:
        if "empty" not in str(problem):
            raise
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]


def _pickle_hint(path: Path) -> str:
    with path.open("rb") as file:
        return f": it {PICKLED}" if file.read(1) == b"\x80" else ""


def _require_numbers(dtype: np.dtype[Any]) -> None:
    if dtype.kind == "O":
        raise UnusableFeatures("unusable-array", PICKLED)
    if dtype.kind not in "fiu":
        raise UnusableFeatures("unusable-array", f"holds {dtype}, not numbers; save a plain float array")


def _only(names: list[str], place: ArrayPlace) -> str:
    """The array that is meant. Raises UnusableFeatures where it is not there, or where several are and none is named."""
    if place.key:
        if place.key not in names:
            raise UnusableFeatures("unusable-array", f"has no array {place.key!r}; it holds {_few(names)}")
        return place.key
    if len(names) != 1:
        raise UnusableFeatures(
            "unusable-array", f"holds {len(names)} arrays ({_few(names)}); say which with --key"
        )
    return names[0]


def _few(names: list[str]) -> str:
    return (", ".join(names[:5]) or "none") + (", ..." if len(names) > 5 else "")


def _dataset_names(path: Path) -> list[str]:
    """Arrays that lie in the file itself: links and files beside it are not followed."""
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if _is_own_data(item):
            names.append(name)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return names


def _is_own_data(item: Any) -> bool:
    import h5py

    return isinstance(item, h5py.Dataset) and not item.is_virtual and item.external is None


def _inside(file: Any, name: str) -> Any:
    """What lies in the file under a name, None where a link leads to it or nothing does."""
    import h5py

    item = file
    for part in name.strip("/").split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item if _is_own_data(item) else None


@contextmanager
def _dataset(place: ArrayPlace) -> Iterator[Any]:
    """The array that is meant; one that is named is gone to without a look at all others."""
    import h5py

    with h5py.File(place.path, "r") as file:
        found = _inside(file, place.key) if place.key else None
        if found is None:
            found = file[_only(_dataset_names(place.path), place)]
        _require_numbers(found.dtype)
        yield found
