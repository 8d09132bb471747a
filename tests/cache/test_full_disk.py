"""A disk that is really full: a tmpfs of a few MB. Needs the right to mount."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import copying
from cache.convert import convert
from cache.errors import StorageFull
from tests.cache.builders import expected, make_video, open_writer, read_contents, write_cache


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("needs Linux and mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_full_disk_loses_nothing_and_the_run_goes_on_after_room_is_made(
    small_disk: Path, suffix: str
) -> None:
    path, filler = small_disk / f"cache.{suffix}", small_disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    videos = {f"{n}.mp4": make_video(f"{n}.mp4", n_tokens=1000) for n in range(60)}
    with open_writer(path) as writer:
        with pytest.raises(StorageFull, match=r"disk that holds .* is full.*Make room"):
            for video in videos.values():
                writer.commit([video], [])
        stored = list(writer.known())
        assert 0 < len(stored) < 60
        assert read_contents(path) == expected({name: videos[name] for name in stored}, {})
        filler.unlink()
        writer.commit([videos[f"{len(stored)}.mp4"]], [])
        shutil.rmtree(small_disk / "cache.h5.staging.creating", ignore_errors=True)
        stored = list(writer.known())
        if suffix == "h5":  # no room for the staging folder and the file at once
            with pytest.raises(StorageFull):
                writer.close()
    assert read_contents(path) == expected({name: videos[name] for name in stored}, {})


@pytest.mark.parametrize("estimate", [True, False])
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_copy_that_does_not_fit_leaves_nothing(
    small_disk: Path, tmp_path: Path, suffix: str, estimate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_cache(
        tmp_path / "source.zarr", [make_video(f"{n}.mp4", n_tokens=1000) for n in range(120)]
    )
    if not estimate:
        monkeypatch.setattr(copying, "_require_space", lambda *_: None)
    with pytest.raises(StorageFull, match="MB free" if estimate else "is full"):
        convert(source, small_disk / f"target.{suffix}")
    assert [entry.name for entry in small_disk.iterdir()] == [f"target.{suffix}.lock"]


def test_publishing_after_room_is_made(small_disk: Path, tmp_path: Path) -> None:
    path, filler = small_disk / "cache.h5", small_disk / "filler"
    videos = {f"{n}.mp4": make_video(f"{n}.mp4", n_tokens=1000) for n in range(20)}
    writer = open_writer(path)
    writer.commit(list(videos.values()), [])
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    with pytest.raises(StorageFull):
        writer.close()
    assert not path.exists()
    assert read_contents(path) == expected(videos, {})
    filler.unlink()
    open_writer(path).close()
    assert path.is_file()
    assert not (small_disk / "cache.h5.staging").exists()
    assert read_contents(path) == expected(videos, {})
