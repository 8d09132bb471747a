"""Which stream of a file is the video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, open_frames
from pipeline.decoding.worker import SHORT_SHARE
from tests.pipeline.numbered import draw_number, read_number
from tests.pipeline.pools import run_pool

pytestmark = pytest.mark.usefixtures("forked_workers")


def write_streams(path: Path, *streams: tuple[str, int, int], default: int | None = None) -> Path:
    """A file with one video stream for each (codec, number of pictures at 10 a second, side); pictures of stream n say n + 1."""
    with av.open(str(path), "w") as file:
        made: list[Any] = []
        for codec, _, side in streams:
            stream: Any = file.add_stream(codec, rate=Fraction(10))
            stream.width = stream.height = side
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 10)
            made.append(stream)
        if default is not None:
            for index, stream in enumerate(made):
                kinds = type(stream.disposition)
                stream.disposition = kinds["default"] if index == default else kinds(0)
        for index, (stream, (_, count, side)) in enumerate(zip(made, streams, strict=True)):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(draw_number(index + 1, side=side), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return path


def taken(path: Path, decoder: DecoderName = "pyav") -> tuple[int, int, list[str]]:
    """Number of frames, what the first of them says, and the notes."""
    source = open_frames(path, decoder)
    try:
        said = [read_number(frame.rgb()) for frame in source]
    finally:
        source.close()
    assert len(set(said)) == 1
    return len(said), said[0], source.notes


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_thumbnail_before_the_video_is_not_the_video(suffix: str, tmp_path: Path) -> None:
    path = write_streams(tmp_path / f"drone.{suffix}", ("mjpeg", 1, 96), ("libx264", 50, 64))
    count, said, notes = taken(path)
    assert (count, said) == (50, 2)
    assert notes == ["2 video streams: stream 1 (h264 64x64) was taken, not stream 0 (mjpeg 96x96)"]


def test_of_streams_that_last_the_default_one_is_taken_else_the_largest(tmp_path: Path) -> None:
    streams = (("libx264", 30, 64), ("libx264", 30, 96), ("libx264", 30, 64))
    assert taken(write_streams(tmp_path / "a.mkv", *streams, default=2))[1] == 3
    assert taken(write_streams(tmp_path / "b.mkv", *streams, default=1))[1] == 2


@pytest.mark.parametrize("decoder", ["decord", "opencv"])
def test_other_decoders_leave_such_files_to_pyav(decoder: DecoderName, tmp_path: Path) -> None:
    path = write_streams(tmp_path / "drone.mp4", ("mjpeg", 1, 96), ("libx264", 50, 64))
    with pytest.raises(DecodeProblem, match="several video streams"):
        open_frames(path, decoder)


def write_with_sound(path: Path, *, seconds: float, sound_seconds: float, late_seconds: float = 0.0) -> Path:
    """A video of `seconds` that starts `late_seconds` after its sound."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=Fraction(10))
        video.width = video.height = 64
        sound: Any = file.add_stream("libmp3lame", rate=44100)
        for number in range(round(sound_seconds * 44100 / 1152)):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", "mono")
            samples.sample_rate, samples.pts = 44100, number * 1152
            file.mux(sound.encode(samples))
        for number in range(round(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(draw_number(1, side=64), format="rgb24")
            frame.pts, frame.time_base = number + round(late_seconds * 10), Fraction(1, 10)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv", "wmv"])
@pytest.mark.parametrize("late_seconds", [0.0, 2.0])
def test_no_video_is_short_of_its_sound(suffix: str, late_seconds: float, tmp_path: Path) -> None:
    """Only MP4 and MPEG-TS know how long the video itself is; what others declare must not be taken for it."""
    path = write_with_sound(
        tmp_path / f"a.{suffix}", seconds=2.0, sound_seconds=8.0, late_seconds=late_seconds
    )
    decoders: tuple[DecoderName, ...] = ("pyav", "decord", "opencv")
    for decoder in decoders:
        end = run_pool([path], decoder).outcomes[0].finished
        assert end.video.duration_seconds == pytest.approx(2.0, abs=0.05)
        assert end.video.duration_seconds >= SHORT_SHARE * end.video.declared_seconds, (decoder, end)


def test_the_declared_duration_is_that_of_the_video(tmp_path: Path) -> None:
    """Matroska's own duration counts sound that goes on, and a start that is not zero."""
    path = tmp_path / "long_sound.mkv"
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=Fraction(10))
        video.width = video.height = 64
        sound: Any = file.add_stream("aac", rate=8000)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(draw_number(1, side=64), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(video.encode(frame))
        for number in range(80):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 8000, number * 1024
            file.mux(sound.encode(samples))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    source = open_frames(path, "pyav")
    source.close()
    assert source.declared.duration_seconds < 2.2
    assert source.declared.longest_seconds > 10
