"""Source trees and caches for tests of whole runs."""

from __future__ import annotations

import functools
import io
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cache.reader import open_cache
from pipeline.backbones.load import BackboneConfig
from pipeline.decoding.pool import PoolSettings
from pipeline.reporting.report import ExtractReport
from pipeline.run import ExtractConfig, extract
from tests.videos import flip_bytes, make_rwf_tree, write_empty, write_text, write_truncated, write_video

GOOD = (
    *("train/Fight/a_0.mp4", "train/Fight/a_1.mp4", "train/NonFight/b_0.mp4"),
    *("val/Fight/c_0.mp4", "val/NonFight/d_0.mp4"),
)
BAD = {
    "train/Fight/broken.mp4": "unreadable-container",
    "train/NonFight/empty.mp4": "empty-file",
    "val/NonFight/text.avi": "unreadable-container",
}


def lock_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let no folder of this name be listed, also for a superuser."""
    listed = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).rsplit("/", maxsplit=1)[-1] == name:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)


def make_tree(root: Path) -> Path:
    """Five good videos of different lengths and three broken files in the layout of RWF-2000."""
    for name, data in _tree_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@functools.cache
def _tree_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number, name in enumerate(GOOD):
            write_video(root / name, seconds=0.7 + 0.4 * number, seed=number, motion="violent")
        write_truncated(root / "train/Fight/broken.mp4")
        write_empty(root / "train/NonFight/empty.mp4")
        write_text(root / "val/NonFight/text.avi")
        return {name: (root / name).read_bytes() for name in (*GOOD, *BAD)}


def run(
    src: Path | str,
    out: Path,
    *,
    streams: tuple[str, ...] = ("clip", "slowfast"),
    printed: io.StringIO | None = None,
    **changes: Any,
) -> ExtractReport:
    """One extraction with one worker; what it prints goes to `printed`."""
    settings: dict[str, Any] = {
        "backbones": BackboneConfig.of(streams=streams, clip_weights="random", slowfast_weights="random"),
        "pool": PoolSettings(workers=1),
        "decoder": "pyav",
        "max_rejects": 1.0,
    }
    config = ExtractConfig(src=src, out=out, **(settings | changes))
    return extract(config, console=Console(file=printed or io.StringIO(), width=200))


def contents(path: Path) -> dict[str, Any]:
    """Everything that a cache holds, by id: rows, tokens bit for bit, rejects; the order of storing left out."""
    with open_cache(path) as cache:
        videos = {}
        for index in range(cache.n_videos):
            row = cache.videos.row(index)
            tokens = {name: cache.tokens(name, index) for name in cache.streams}
            videos[row.id] = (
                row,
                {
                    name: (t.values.dtype.str, t.values.tobytes(), t.spans.tobytes())
                    for name, t in tokens.items()
                },
            )
        assert len(videos) == cache.n_videos
        rejects = {r.id: r for r in (cache.rejects.row(i) for i in range(len(cache.rejects)))}
        assert len(rejects) == len(cache.rejects)
        assert not rejects.keys() & videos.keys()
        return {"videos": videos, "rejects": rejects, "label_names": cache.label_names}


def restamped(found: dict[str, Any], mtime_ns: int, *names: str) -> dict[str, Any]:
    """The same contents where these files have another time of change."""
    videos = dict(found["videos"])
    for name in names:
        row, tokens = videos[name]
        videos[name] = (replace(row, mtime_ns=mtime_ns), tokens)
    return {**found, "videos": videos}


__all__ = ["BAD", "GOOD", "contents", "flip_bytes", "make_rwf_tree", "make_tree", "restamped", "run"]
