"""The commit record of a cache in object storage: which files it consists of, and which objects hold them.

    <address>/commit.json         the record, replaced by a conditional put only
    <address>/objects/<digest>    a piece of a file, without the zeros at its end; never changed

A file is cut into pieces of `PIECE_BYTES`; a chunk of Zarr is one. A file of up to `TEXT_BYTES` that is text (the metadata of
Zarr) stands in the record itself. A digest is of all bytes of a piece, the zeros that follow included.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cache.errors import CacheCorrupt, CacheError

FORMAT, VERSION = "onepass-objects", 1
RECORD_NAME = "commit.json"
OBJECTS = "objects"
TEXT_BYTES = 4096
PIECE_BYTES = 16 << 20
_DIGEST = re.compile("[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """blake2b of 32 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the tree. path: relative to the cache's folder, with `/`. pieces: their digests. text: in place of pieces."""

    path: str
    size: int
    pieces: tuple[str, ...] = ()
    text: str | None = None

    def spans(self) -> Iterator[tuple[str, int, int]]:
        """Each piece's digest, where it begins in the file, and how long it is there."""
        for number, digest in enumerate(self.pieces):
            start = number * PIECE_BYTES
            yield digest, start, min(PIECE_BYTES, self.size - start)


def object_name(digest: str) -> str:
    """Where a piece lies, relative to the address."""
    return f"{OBJECTS}/{digest}"


def is_object_name(name: str) -> bool:
    """Whether a piece can lie there."""
    folder, _, digest = name.partition("/")
    return folder == OBJECTS and _DIGEST.fullmatch(digest) is not None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One published state. writer: random, of one run. time: UTC, ISO. previous: digest of the record before, "" of the first.

    name: of the cache, the first part of every path (of an unfinished `.h5` cache also `<name>.staging`).
    """

    name: str
    sequence: int
    writer: str
    host: str
    time: str
    previous: str
    n_videos: int
    n_rejects: int
    files: tuple[StoredFile, ...]

    def to_bytes(self) -> bytes:
        """As JSON, a line a file."""
        head = {
            "format": FORMAT,
            "format_version": VERSION,
            "piece_bytes": PIECE_BYTES,
            "name": self.name,
            "sequence": self.sequence,
            "writer": self.writer,
            "host": self.host,
            "time": self.time,
            "previous": self.previous,
            "n_videos": self.n_videos,
            "n_rejects": self.n_rejects,
        }
        lines = []
        for file in self.files:
            entry: dict[str, Any] = {"path": file.path, "size": file.size}
            entry |= {"pieces": file.pieces} if file.text is None else {"text": file.text}
            lines.append(json.dumps(entry, ensure_ascii=False))
        shown, listed = json.dumps(head, ensure_ascii=False), ",\n".join(lines)
        return f'{shown[:-1]}, "files": [\n{listed}\n]}}\n'.encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> CommitRecord:
        """Raises CacheError (of another make or a newer version) and CacheCorrupt; no path leads out of the cache's folder."""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise CacheError(f"{where} is no commit record of onepass")
            if (found["format_version"], found["piece_bytes"]) != (VERSION, PIECE_BYTES):
                raise CacheError(
                    f"{where} has version {found['format_version']}, this onepass knows {VERSION}: use the newer version"
                )
            name = str(found["name"])
            files = tuple(_file(entry, name) for entry in found["files"])
            return cls(
                name=name,
                sequence=int(found["sequence"]),
                writer=str(found["writer"]),
                host=_printable(found["host"]),
                time=_printable(found["time"]),
                previous=str(found["previous"]),
                n_videos=int(found["n_videos"]),
                n_rejects=int(found["n_rejects"]),
                files=files,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheCorrupt(f"{where} is malformed: {error!r}") from error


def _printable(value: Any) -> str:
    return "".join(letter for letter in str(value)[:200] if letter.isprintable())


def _file(entry: dict[str, Any], name: str) -> StoredFile:
    text = entry.get("text")
    pieces = tuple(map(str, entry.get("pieces", ())))
    file = StoredFile(str(entry["path"]), int(entry["size"]), pieces, None if text is None else str(text))
    parts = file.path.split("/")
    if parts[0] not in (name, f"{name}.staging") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"the path {file.path!r} leads out of {name}")
    if PurePosixPath(name).name != name or "\0" in file.path:
        raise ValueError(f"{name!r} is no name of a cache")
    n_pieces = 0 if file.text is not None else -(-file.size // PIECE_BYTES)
    if file.size < 0 or len(pieces) != n_pieces or not all(map(_DIGEST.fullmatch, pieces)):
        raise ValueError(f"the size or the pieces of {file.path!r} cannot be")
    return file
