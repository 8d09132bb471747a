"""A cache's features as files that others read: .npy, .csv or .parquet, with spans, labels and ids beside them.

OUT/videos.csv            a row a video: id, label, split, source, duration and the other columns of the cache
OUT/rejects.csv           a row a reject
OUT/streams.json          how the features were made, and the class names
OUT/words.csv             where words were kept (`--keep-text`): id, stream, start_seconds, end_seconds, text
OUT/absent.csv            where videos lack a stream: stream, id, reason; they have no file and no token of it
OUT/clip/<id>.npy         npy: [T, D] a video, in the stored dtype
OUT/clip-spans/<id>.npy   npy: [T, 2] seconds
OUT/clip.csv              npy: the manifest of both (path, id, label, split, source, spans), as `onepass import` reads it;
                          csv: a row a token: id, start_seconds, end_seconds, f0, f1, ...
OUT/clip.parquet          parquet: a row a token: id, start_seconds, end_seconds, values
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import InputError, StorageFull
from cache.fingerprint import weights_name
from cache.kept_text import read_words
from cache.reader import Cache
from cache.schema import REJECT_COLUMNS, VIDEO_COLUMNS, VideoRow, storable_text
from cache.stores import files

FORMATS = ("npy", "parquet", "csv")
MANIFEST_COLUMNS = ("path", "id", "label", "split", "source", "spans")
BLOCK_VIDEOS = 64


def export_cache(cache: Cache, out: Path, *, how: str, streams: Sequence[str] = ()) -> list[str]:
    """Write the features below `out`, a folder that is new or empty; returns a line a stream. streams: left out, all.

    Raises InputError for another format, a stream that is not there, a folder with something in it, and parquet without
    pyarrow; StorageFull.
    """
    if how not in FORMATS:
        raise InputError(f"--format {how}: choose from {', '.join(FORMATS)}")
    wanted = list(streams) or list(cache.streams)
    if missing := [name for name in wanted if name not in cache.streams]:
        raise InputError(
            f"{cache.paths[0]} holds no stream {missing[0]}; it holds {', '.join(cache.streams)}"
        )
    if how == "parquet":
        _require_pyarrow()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is there and not empty; give a new folder")
    rows = [cache.videos.row(index) for index in range(len(cache))]
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _write_csv(
            out / "videos.csv",
            VIDEO_COLUMNS,
            ([getattr(row, name) for name in VIDEO_COLUMNS] for row in rows),
        )
        rejects = (cache.rejects.row(index) for index in range(len(cache.rejects)))
        _write_csv(
            out / "rejects.csv", REJECT_COLUMNS, ([getattr(r, n) for n in REJECT_COLUMNS] for r in rejects)
        )
        about = {
            "dataset": cache.dataset,
            "label_names": cache.label_names,
            "streams": {name: dict(cache.streams[name].fingerprint) for name in wanted},
        }
        files.replace(out / "streams.json", json.dumps(about, indent=2, ensure_ascii=False).encode())
        absent = [
            (name, row.id, why)
            for name in wanted
            for row, why in zip(rows, cache.absent(name).tolist(), strict=True)
            if why
        ]
        if absent:
            _write_csv(out / "absent.csv", ("stream", "id", "reason"), absent)
        digests = {row.id: row.digest for row in rows}
        words = [
            (kept.id, kept.stream, start, end, storable_text(text))
            for path in cache.paths
            for kept in read_words(path)
            if kept.stream in wanted and digests.get(kept.id) == kept.digest
            for start, end, text in kept.cues
        ]
        if words:
            _write_csv(out / "words.csv", ("id", "stream", "start_seconds", "end_seconds", "text"), words)
        write = {"npy": _write_npy, "csv": _write_tokens_csv, "parquet": _write_parquet}[how]
        for name in wanted:
            write(cache, name, rows, out)
    return [
        f"{name}: {cache.streams[name].n_tokens} tokens of {int((cache.absent(name) == '').sum())} videos, "
        f"weights {weights_name(cache.streams[name].fingerprint)}"
        for name in wanted
    ]


def _blocks(cache: Cache, stream: str, rows: Sequence[VideoRow]) -> Iterator[tuple[VideoRow, Any]]:
    for first in range(0, len(rows), BLOCK_VIDEOS):
        some = range(first, min(first + BLOCK_VIDEOS, len(rows)))
        found = zip((rows[i] for i in some), cache.read(stream, some), strict=True)
        yield from ((row, tokens) for row, tokens in found if len(tokens.values))


def _write_npy(cache: Cache, stream: str, rows: Sequence[VideoRow], out: Path) -> None:
    manifest = []
    for row, tokens in _blocks(cache, stream, rows):
        name = f"{_file_name(row.id)}.npy"
        for folder, array in ((stream, tokens.values), (f"{stream}-spans", tokens.spans)):
            path = out / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array, allow_pickle=False)
        manifest.append(
            (f"{stream}/{name}", row.id, row.label_name, row.split, row.source, f"{stream}-spans/{name}")
        )
    _write_csv(out / f"{stream}.csv", MANIFEST_COLUMNS, manifest)


def _write_tokens_csv(cache: Cache, stream: str, rows: Sequence[VideoRow], out: Path) -> None:
    columns = ("id", "start_seconds", "end_seconds", *(f"f{n}" for n in range(cache.streams[stream].dim)))

    def lines() -> Iterator[Sequence[Any]]:
        for row, tokens in _blocks(cache, stream, rows):
            for (start, end), values in zip(tokens.spans, tokens.values, strict=True):
                yield (row.id, start, end, *values)

    _write_csv(out / f"{stream}.csv", columns, lines())


def _write_parquet(cache: Cache, stream: str, rows: Sequence[VideoRow], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = cache.streams[stream]
    kind = pa.from_numpy_dtype(np.dtype(info.dtype))
    schema = pa.schema(
        [("id", pa.string()), ("start_seconds", pa.float32()), ("end_seconds", pa.float32()),
         ("values", pa.list_(kind, info.dim))]
    )  # fmt: skip
    with pq.ParquetWriter(out / f"{stream}.parquet", schema) as writer:
        for row, tokens in _blocks(cache, stream, rows):
            values = pa.FixedSizeListArray.from_arrays(pa.array(tokens.values.reshape(-1)), info.dim)
            columns = [pa.array([row.id] * len(tokens.values)), *map(pa.array, tokens.spans.T), values]
            writer.write_table(pa.table(columns, schema=schema))


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise InputError(
            "--format parquet needs pyarrow: pip install 'onepass[parquet]', or choose npy or csv"
        ) from None


def _file_name(video_id: str) -> str:
    """The id as a path below a folder, whatever it holds: no part leads upwards or away."""
    parts = [part.replace("\\", "%5C") for part in video_id.split("/")]
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else part or "%2F" for part in parts)


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(list(columns))
        writer.writerows(rows)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise StorageFull(
                f"--out {out}: the disk is full; what is there is not whole, remove it"
            ) from error
        raise InputError(
            f"--out {out}: {error.filename or 'a file'} cannot be written: {error.strerror or error}"
        ) from error
