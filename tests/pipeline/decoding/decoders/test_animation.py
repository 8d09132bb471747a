"""Animated WebP is a video, through Pillow."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.base import DecodeProblem, open_frames
from pipeline.decoding.worker import Finished
from tests.pipeline.numbered import draw_number, read_number
from tests.pipeline.pools import run_pool
from tests.videos import write_image

pytestmark = pytest.mark.usefixtures("forked_workers")


def write_animation(path: Path, durations_ms: list[int]) -> Path:
    frames = [Image.fromarray(draw_number(number)) for number in range(len(durations_ms))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations_ms, quality=90)
    return path


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_every_picture_stands_at_its_own_time(suffix: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / f"a.{suffix}", [100, 300, 50, 50, 500])
    source = open_frames(path, "pyav")
    seen = [(round(frame.pts_seconds, 3), read_number(frame.rgb())) for frame in source]
    source.close()
    assert seen == [(0.0, 0), (0.1, 1), (0.4, 2), (0.45, 3), (0.5, 4)]
    assert source.n_frames == 5 and source.n_errors == 0


def test_the_decoder_on_record_is_the_one_that_read_it(tmp_path: Path) -> None:
    animation = write_animation(tmp_path / "a.webp", [100] * 10)
    still = write_image(tmp_path / "b.webp")
    assert is_animated_webp(animation) and not is_animated_webp(still)
    ends = [outcome.end for outcome in run_pool([animation, still]).outcomes]
    assert [end.decoder for end in ends if isinstance(end, Finished)] == ["pillow", "pyav"]


def test_a_broken_animation_is_a_problem(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp", [100] * 10)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DecodeProblem):
        for frame in open_frames(path, "pyav"):
            frame.rgb()


@pytest.mark.parametrize("durations_ms", [[0] * 6, [0, 100, 0, 100, 0, 100]])
def test_a_duration_of_nothing_is_no_damage(durations_ms: list[int], tmp_path: Path) -> None:
    source = open_frames(write_animation(tmp_path / "a.webp", durations_ms), "pyav")
    seen = [(round(frame.pts_seconds, 3), read_number(frame.rgb())) for frame in source]
    source.close()
    assert seen == [(n / 10, n) for n in range(6)] and source.tail_seconds == pytest.approx(0.1)
    assert source.n_errors == 0
    assert source.notes == [f"{durations_ms.count(0)} of 6 pictures have a duration of 0 ms: taken as 100 ms"]
