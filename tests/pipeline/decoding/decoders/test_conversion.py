"""RGB against arithmetic, and pictures converted as other decoders convert them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decoding.decoders.base import DecoderName, open_frames
from pipeline.decoding.decoders.conversion import converted_as
from pipeline.decoding.frames import RgbFrame
from pipeline.decoding.pictures import difference
from tests.pipeline.fine_colours import PQ, converts_alike, fine_noise, rgb_of, write_flat, write_pictures

COLOURS = np.array(
    [(0.1, 0.1, 0.1), (0.9, 0.9, 0.9), (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (0.8, 0.7, 0.1)]
)


def pictures(path: Path, decoder: DecoderName) -> list[RgbFrame]:
    with closing(open_frames(path, decoder)) as source:
        return [frame.rgb().copy() for frame in source]


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 9], ids=["BT.709", "BT.601", "BT.2020"])
def test_flat_colours_come_out_as_they_are_marked(matrix: int, full: bool, bits: int, tmp_path: Path) -> None:
    """Within three grey levels: FFmpeg's tables round down. Another matrix or range is three times as far away or more."""
    due = write_flat(tmp_path / "a.mkv", COLOURS, matrix=matrix, full=full, bits=bits)
    found = np.array(pictures(tmp_path / "a.mkv", "pyav"))
    assert (found == found[:, :1, :1]).all()
    assert np.abs(found[:, 0, 0] - due).max() < 3
    assert np.abs(found[:, 0, 0] - due).mean() < 2
    assert np.abs(255 * COLOURS - due).max() < 2  # coding rounds too


def test_arithmetic_by_hand() -> None:
    """Primary red of BT.709 in 10 bits: Y 250, Cb 409, Cr 960; white is 940, and 1023 in full range."""
    samples = np.array([(250, 409, 960), (940, 512, 512)])
    assert rgb_of(samples, matrix=1, full=False, bits=10) == pytest.approx(
        np.array([(255, 0, 0), (255, 255, 255)]), abs=0.5
    )
    assert rgb_of(np.array([(1023, 512, 512)]), matrix=9, full=True, bits=10) == pytest.approx(255)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "params", "others"),
    [
        pytest.param("libx264", "yuv420p10le", "", "opencv", marks=converts_alike),
        pytest.param("libx264", "yuv422p10le", "", "opencv", marks=converts_alike),
        pytest.param("libx265", "yuv420p12le", "", "opencv", marks=converts_alike),
        ("libx264", "yuv420p10le", "", "decord"),
        ("libx264", "yuv422p10le", "", "decord"),
        ("libx265", "yuv420p12le", "", "decord"),
        ("ffv1", "yuv440p", "", "opencv decord"),
        ("libx264", "yuv420p10le", PQ, "decord"),
        ("libx264", "yuv420p10le", "tff=1", "decord"),
        ("libx264", "yuv420p", "tff=1", "decord"),
    ],
)
def test_a_picture_is_converted_as_another_decoder_does_it(
    codec: str, pix_fmt: str, params: str, others: str, tmp_path: Path
) -> None:
    """Far apart as each has it converted, all but equal converted alike (decord's first row is another one)."""
    suffix = "mkv" if codec == "ffv1" else "mp4"
    path = write_pictures(
        tmp_path / f"a.{suffix}", fine_noise(3), codec=codec, pix_fmt=pix_fmt, params=params
    )
    for other in others.split():
        theirs = pictures(path, other)  # type: ignore[arg-type]
        with closing(open_frames(path, "pyav")) as source:
            for frame, picture in zip(source, theirs, strict=True):
                alike = frame.rgb_as(other)  # type: ignore[arg-type]
                assert alike is not None and difference(alike, picture) < 0.5
                assert difference(frame.rgb(), picture) > 2


def test_pictures_that_all_convert_alike_stay_as_they_are(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mp4", fine_noise(2), pix_fmt="yuv420p")
    with closing(open_frames(path, "pyav")) as source:
        for frame in source:
            for other in ("opencv", "decord"):
                assert np.array_equal(frame.rgb_as(other), frame.rgb())  # type: ignore[arg-type]


def test_what_nobody_knows_is_not_guessed() -> None:
    frame = av.VideoFrame(32, 16, "yuv420p10le")
    assert converted_as(frame, "pillow") is None
    assert converted_as(frame, "pyav") is None
