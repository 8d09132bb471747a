"""A head on disk: `head.safetensors` (weights, input scaling) and `head.json` (everything else).

head.json carries the SHA-256 of the weights and is renamed into place last: it is the commit record. Both
files are complete on the disk before either is renamed, so a kill at any moment leaves a readable head: the
old one, or the new.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cache.errors import HeadError, InputError, OnepassError, StorageFull
from cache.stores import files
from heads.models.ensemble import build_model, count_parameters
from heads.trained.folder import INFO_FILE, WEIGHTS_FILE, require_head
from heads.trained.head import HeadInfo, TrainedHead


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """OSErrors while writing into `folder` become StorageFull or HeadError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk is full, writing {folder}; make space and run again") from error
        raise HeadError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error


def save_head(head: TrainedHead, folder: str | Path, *, stale: Sequence[str] = ()) -> Path:
    """Write both files, replacing those of an earlier head; other files of the folder stay.

    stale: names of files that would tell of the earlier head; they go before the new one is in its place.
    Raises StorageFull or HeadError when the folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = save({name: tensor.contiguous() for name, tensor in head.model.state_dict().items()})
    info = _info_json(head.info, hashlib.sha256(weights).hexdigest())
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in ((WEIGHTS_FILE, weights), (INFO_FILE, info)):
            files.replace(_pending(folder / name), contents)
        for name in stale:
            files.remove_file(folder / name)
        for name in (WEIGHTS_FILE, INFO_FILE):
            files.rename(_pending(folder / name), folder / name)
        files.sync([folder])
    return folder


def save_info(info: HeadInfo, folder: str | Path) -> None:
    """Replace head.json of a head whose weights stay as they are, in one atomic step.

    Raises HeadError when `folder` holds no head, StorageFull or HeadError when it cannot be written.
    """
    path = Path(folder) / INFO_FILE
    digest = _read_json(path).get("weights_sha256")
    if not isinstance(digest, str):
        raise HeadError(f"{path} does not name its weights; train the head again")
    with writing(Path(folder)):
        files.replace(path, _info_json(info, digest))


def _pending(path: Path) -> Path:
    """Where a file's new contents lie complete until both are."""
    return path.with_name(path.name + files.PART_SUFFIX)


def _info_json(info: HeadInfo, weights_digest: str) -> bytes:
    values = {**info.as_dict(), "weights_sha256": weights_digest}
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def load_head(folder: str | Path) -> TrainedHead:
    """Read a head. Raises HeadError when files are missing, damaged, of two runs, or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    require_head(folder)
    weights = (folder / WEIGHTS_FILE).read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    values = _read_json(folder / INFO_FILE)
    if values.get("weights_sha256") != digest:
        # Killed between the two renames: the record that belongs to these weights is complete beside them.
        pending = _pending(folder / INFO_FILE)
        values = _read_json(pending) if pending.is_file() else {}
        if values.get("weights_sha256") != digest:
            raise HeadError(
                f"{folder}: {WEIGHTS_FILE} and {INFO_FILE} do not belong together; train the head again"
            )
    try:
        info = HeadInfo.from_dict(values)
        dims = tuple(stream.dim for stream in info.streams)
        _require_room(info, dims, len(weights))
        model = build_model(info.config.model, dims, n_folds=info.members)
        model.load_state_dict(load(weights))
    except InputError as error:
        raise HeadError(f"{folder / INFO_FILE}: {error}") from error
    except OnepassError as error:
        raise type(error)(f"{folder / INFO_FILE}: {str(error).removeprefix('head.json: ')}") from error
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HeadError(f"{folder / WEIGHTS_FILE} does not fit {INFO_FILE}: {reason}") from error
    return TrainedHead(model.eval(), info)


def _require_room(info: HeadInfo, dims: tuple[int, ...], n_bytes: int) -> None:
    """Raise HeadError where head.json speaks of a larger head than the weights are, before any of it is made."""
    if not dims or min(dims) < 1:
        raise HeadError("a head reads at least one stream, of a width of 1 or more")
    if max(dims) > n_bytes or info.members * count_parameters(info.config.model, dims) * 2 > n_bytes:
        raise HeadError(f"it speaks of a larger head than {WEIGHTS_FILE} holds; train the head again")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise HeadError(f"{path} is not readable: {error}") from error
    if not isinstance(values, dict):
        raise HeadError(f"{path} holds no JSON object")
    return values
