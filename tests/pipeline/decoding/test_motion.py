"""Measures of motion: right where the answer is known, defined where nothing moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.decoding.decode import StreamPlan, decode_video
from pipeline.decoding.decoders.base import FrameRef, open_frames
from pipeline.decoding.frames import FramePlan, Luma, prepare_frame
from pipeline.decoding.motion import (
    LONG_SIDE,
    PAIR_WIDTH,
    SMALLEST_DIFFERENCE,
    SMALLEST_FLOW,
    TOKEN_WIDTH,
    motion_statistics,
    pair_statistics,
)
from pipeline.decoding.sampling import Sampling
from tests.videos import write_rotated, write_video

N_DIFFERENCE = 7


def texture(seed: int = 0) -> NDArray[np.uint8]:
    """A grey picture with detail at several sizes, larger than a frame so that it can be shifted."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (20, 26), dtype=np.uint8)
    wide = cv2.resize(coarse, (208, 160), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.GaussianBlur(wide, (0, 0), 1.0), np.uint8)


def cut(picture: NDArray[np.uint8], x: int, y: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[20 + y : 140 + y, 24 + x : 184 + x])


def test_a_shift_is_measured_in_shares_of_the_long_side() -> None:
    picture = texture()
    found = np.exp(pair_statistics([cut(picture, 0, 0), cut(picture, -4, 0)])[0].astype(np.float64))
    magnitude = found[N_DIFFERENCE : N_DIFFERENCE + 5] - SMALLEST_FLOW
    assert magnitude[0] == pytest.approx(4 / LONG_SIDE, rel=0.15)  # the mean
    assert magnitude[2] == pytest.approx(4 / LONG_SIDE, rel=0.05)  # the median
    own = found[N_DIFFERENCE + 5 : N_DIFFERENCE + 10] - SMALLEST_FLOW
    assert own[2] < 0.05 * magnitude[2]  # everything moves as the camera does


def test_what_moves_otherwise_than_the_camera_has_a_direction() -> None:
    picture, other = texture(), texture(1)
    before, after = cut(picture, 0, 0), cut(picture, -2, 0)
    before[40:80, 50:90] = other[40:80, 50:90]
    after[43:83, 50:90] = other[40:80, 50:90]  # down, while all else goes to the right
    found = np.exp(pair_statistics([before, after])[0].astype(np.float64)) - SMALLEST_FLOW
    eighths = found[-8:]  # counted from the right, towards the bottom
    assert eighths.argmax() in (1, 2, 3) and eighths.max() > 3 * np.median(eighths)


def test_differences_are_shares_of_the_grey_range() -> None:
    before = np.zeros((120, 160), np.uint8)
    after = before.copy()
    after[:60] = 51  # a fifth of the range, on half of the picture
    found = (
        np.exp(pair_statistics([before, after])[0].astype(np.float64))[:N_DIFFERENCE] - SMALLEST_DIFFERENCE
    )
    mean, deviation, median, high, highest, above_5, above_15 = found
    assert mean == pytest.approx(0.1, abs=1e-6) and deviation == pytest.approx(0.1, abs=1e-6)
    assert (high, highest) == (pytest.approx(0.2, abs=1e-6), pytest.approx(0.2, abs=1e-6))
    assert median == pytest.approx(0.0, abs=1e-6)
    assert (above_5, above_15) == (pytest.approx(0.5, abs=1e-6), pytest.approx(0.5, abs=1e-6))


def test_nothing_moves_is_a_token_like_any_other() -> None:
    """A still video has a token that is finite and not constant: differences and flow have floors of their own."""
    still = [cut(texture(), 0, 0)] * 6
    found = motion_statistics(still)
    assert found.shape == (TOKEN_WIDTH,) == (2 * PAIR_WIDTH,) and found.dtype == np.float32
    assert np.isfinite(found).all() and len(np.unique(found)) > 1
    assert found == pytest.approx(motion_statistics(still[:1]))


def test_a_token_is_mean_and_maximum_over_its_pairs() -> None:
    picture = texture()
    frames = [cut(picture, -n * n, 0) for n in range(4)]
    pairs = [pair_statistics([a, b])[0] for a, b in pairwise(frames)]  # measured one by one and together
    found = motion_statistics(frames)
    np.testing.assert_array_equal(found[:PAIR_WIDTH], np.mean(pairs, axis=0))
    np.testing.assert_array_equal(found[PAIR_WIDTH:], np.max(pairs, axis=0))
    np.testing.assert_array_equal(found, motion_statistics(frames))  # the kept buffers carry nothing over


@pytest.mark.parametrize("shape", [(1, 1), (4, 2000), (2000, 4), (1080, 1920), (240, 320), (16, 16)])
def test_any_size_can_be_measured(shape: tuple[int, int]) -> None:
    plan = FramePlan("grey", LONG_SIDE)
    rng = np.random.default_rng(0)
    frames = [prepare_frame(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), plan) for _ in range(2)]
    assert max(frames[0].shape) == LONG_SIDE and min(frames[0].shape) >= 32 and frames[0].dtype == np.uint8
    assert np.isfinite(motion_statistics(frames)).all()


def test_a_picture_that_changes_its_shape_is_measured() -> None:
    wide, high = texture()[:90, :160].copy(), texture()[:160, :90].copy()
    assert np.isfinite(motion_statistics([wide, wide, high, high])).all()


@pytest.mark.parametrize(("pix_fmt", "limited"), [("yuv420p", True), ("yuvj420p", False), ("yuv444p", True)])
@pytest.mark.parametrize("write", [write_video, write_rotated])
def test_luma_is_the_grey_of_the_picture_without_its_conversion(
    write: Any, pix_fmt: str, limited: bool, tmp_path: Path
) -> None:
    """Whatever the range, and turned as the picture is: up to the roundings of FFmpeg's conversion, which darkens a little."""
    path = write(tmp_path / "v.mp4", seconds=0.5, width=322, height=182, pix_fmt=pix_fmt)
    plan = FramePlan("grey", LONG_SIDE)
    frames = open_frames(path, "pyav")
    for frame in frames:
        luma = frame.luma()
        assert isinstance(luma, Luma) and luma.limited == limited
        found, of_rgb = prepare_frame(luma, plan), prepare_frame(frame.rgb(), plan)
        assert found.shape == of_rgb.shape == ((160, 90) if write is write_rotated else (90, 160))
        differs = found.astype(int) - of_rgb
        assert np.abs(differs).mean() < 2 and differs.std() < 1
        with pytest.raises(ValueError, match="takes RGB, not luma"):
            prepare_frame(luma, FramePlan("pil-bicubic", 32))
    frames.close()


def test_only_streams_of_colours_have_frames_converted(tmp_path: Path) -> None:
    motion, clip = (
        settle(parse_stream("motion")).plan,
        StreamPlan("c", Sampling(fps=2.0), FramePlan("pil-bicubic", 8)),
    )

    class Counting:
        """Frames of a decoder, whose conversions to RGB are counted."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.converted = inner, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __iter__(self) -> Iterator[FrameRef]:
            for frame in self.inner:
                yield replace(frame, rgb=partial(self._rgb, frame))

        def _rgb(self, frame: FrameRef) -> Any:
            self.converted += 1
            return frame.rgb()

    path = write_video(tmp_path / "v.mp4", seconds=2.0)
    for plans, converted in (((motion,), 0), ((motion, clip), 4)):
        source = Counting(open_frames(path, "pyav"))
        decoded = decode_video(source, plans, emit=lambda *_: None, beat=lambda _: None)
        assert source.converted == converted and (decoded.width, decoded.height) == (64, 48)
        source.close()
