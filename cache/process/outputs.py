"""What a command will write, tried before it works: no result is computed that then has no place to go.

    require_output("--report", path)          a file, replaced or made at the end
    require_output_folder("--out", folder)    a folder of files

Both raise `InputError` (or `StorageFull`) and leave nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cache.errors import InputError, StorageFull
from cache.objects.address import remote_url
from cache.objects.store import redacted
from cache.stores import files

BLOCK_BYTES = 4096


def require_output(flag: str, path: Path) -> None:
    """Raise `InputError` unless a file can be put at `path`; its folder may be missing.

    A device or a pipe is taken as it is.
    """
    with _refusing(flag, path):
        kind = _kind(path)
        if kind is not None and stat.S_ISDIR(kind):
            raise InputError(f"{flag} {path}: is a folder; give the name of a file")
        if kind is not None and not stat.S_ISREG(kind):
            return
        part = path.with_name(path.name + files.PART_SUFFIX)
        kind = _kind(part)  # also finds a name that is too long
        if kind is not None and stat.S_ISDIR(kind):
            raise InputError(f"{flag} {path}: a folder {part} is in the way; remove it or give another name")
        _try_folder(path.parent)


def require_output_folder(flag: str, folder: Path) -> None:
    """Raise `InputError` unless `folder` is one that files can be put into, or can be made; a cache is none."""
    if (folder / "zarr.json").exists():
        raise InputError(f"{flag} {folder}: is a feature cache; name another folder")
    with _refusing(flag, folder):
        _try_folder(folder)


def require_cache_output(flag: str, cache: Path, *, remote: bool = False) -> None:
    """Raise `InputError` unless a cache can be made at `cache`, or the one there be added to.

    remote: whether an address in object storage will do; what can be written there is seen when it is.
    """
    if (url := remote_url(cache)) is not None:
        if not remote:
            raise InputError(
                f"{flag} {redacted(url)}: is in object storage; give a local cache, and onepass convert it to that address"
            )
        return
    require_output_folder(flag, cache.parent)
    if cache.is_dir():
        with _refusing(flag, cache):
            _try_folder(cache)


def write_output(flag: str, path: Path, contents: bytes) -> None:
    """Write a file in one step (into a device or a pipe: straight). Raises `InputError` or `StorageFull`."""
    with _refusing(flag, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = _kind(path)
        if kind is not None and not stat.S_ISREG(kind):
            path.write_bytes(contents)
        else:
            files.replace(path.resolve(), contents)


def _kind(path: Path) -> int | None:
    """Mode of what lies at `path`, None where nothing does."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _try_folder(folder: Path) -> None:
    """Make a file of a block in `folder`, or in the nearest folder above it that exists, and remove it again."""
    for place in (folder, *folder.parents):
        kind = _kind(place)
        if kind is None:
            if place.is_symlink():
                raise InputError(f"{place} is a link that leads nowhere; remove it or give another path")
            continue
        if not stat.S_ISDIR(kind):
            raise InputError(f"{place} is a file, not a folder; give another path")
        descriptor, name = tempfile.mkstemp(prefix=".onepass-try-", dir=place)
        try:
            os.write(descriptor, bytes(BLOCK_BYTES))  # a full disk takes empty files
        finally:
            Path(name).unlink()
            os.close(descriptor)
        return


@contextlib.contextmanager
def _refusing(flag: str, path: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(flag) else f"{flag} {path}: {text}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"{flag} {path}: the disk is full ({reason}); make room or give another path"
            ) from error
        raise InputError(f"{flag} {path}: cannot be written: {reason}; give another path") from error
