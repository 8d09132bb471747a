"""The three decoders give the same frames at the same times, and say what is wrong with a file."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, open_frames
from tests.pipeline.numbered import copy_packets, draw_number, read_number, write_numbered
from tests.videos import (
    flip_bytes,
    truncate,
    write_audio_only,
    write_image,
    write_rotated,
    write_text,
    write_video,
)

DECODERS: tuple[DecoderName, ...] = ("decord", "opencv", "pyav")
CLEAN = (
    *("h264.mp4", "h264_faststart.mp4", "h264.mkv", "h264.mov", "h264.ts", "h264.flv", "h264_b_frames.mp4"),
    *("hevc.mp4", "vp9.webm", "mpeg4.avi", "mjpeg.avi", "wmv2.wmv", "UPPER.MP4", "variable_rate.mp4"),
    *("variable_rate.mkv", "ntsc.mp4", "slow_1fps.mp4", "fast_120fps.mp4", "rotated_180.mp4", "yuv444.mp4"),
    *("odd_161x121.mp4", "yuv422.mp4", "grey.mp4", "grey.mkv", "rgb.mkv", "one_frame.mp4", "two_frames.mp4"),
    *("wide_640x16.mp4", "over_reporting.mp4", "starts_at_5s.mkv", "starts_at_5s.ts", "starts_at_5s.mp4"),
)
"""Files that every decoder reads without a word. What is left out is read by PyAV in the end: see test_pool."""


def read(path: Path, decoder: DecoderName) -> tuple[NDArray[np.float64], list[NDArray[np.uint8]], float]:
    """Times, frames and the time after the last frame's start."""
    source = open_frames(path, decoder)
    try:
        times, frames = [], []
        for frame in source:
            times.append(frame.pts_seconds)
            frames.append(frame.rgb().copy())
        assert source.n_frames == len(frames)
        assert source.n_errors == 0
        return np.asarray(times), frames, source.tail_seconds
    finally:
        source.close()


def problem(path: Path, decoder: DecoderName) -> DecodeProblem:
    with pytest.raises(DecodeProblem) as caught:
        read(path, decoder)
    return caught.value


UNSUITED: dict[str, tuple[DecoderName, ...]] = {
    **dict.fromkeys(("h264.ts", "h264.flv", "starts_at_5s.ts"), ("decord",)),
    **dict.fromkeys(("mpeg4.avi", "mjpeg.avi", "wmv2.wmv", "rotated_180.mp4"), ("decord", "opencv")),
}
"""Which decoders leave a clean file to PyAV."""


@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_are_read_alike(name: str, media: Path) -> None:
    times, frames, tail = read(media / name, "pyav")
    assert times[0] == 0 and (np.diff(times) > 0).all() and tail > 0
    others: tuple[DecoderName, ...] = ("decord", "opencv")
    for decoder in others:
        if decoder in UNSUITED.get(name, ()):
            assert f"{decoder} is not used for" in problem(media / name, decoder).detail
            continue
        other_times, other_frames, other_tail = read(media / name, decoder)
        np.testing.assert_allclose(other_times, times, atol=1e-6)
        if not (decoder == "opencv" and name.startswith("variable_rate")):  # OpenCV does not say
            assert other_tail == pytest.approx(tail, abs=1e-6)
        for mine, other in zip(frames, other_frames, strict=True):
            assert np.abs(mine.astype(int) - other).max() <= 2


@pytest.mark.parametrize("name", ["ten_bit.mp4", "ten_bit_hevc.mp4", "odd_161x121.mkv"])
def test_frames_that_are_converted_by_different_ffmpegs_are_close(name: str, media: Path) -> None:
    _, frames, _ = read(media / name, "pyav")
    for decoder in ("decord", "opencv"):
        for mine, other in zip(frames, read(media / name, decoder)[1], strict=True):
            assert np.abs(mine.astype(int) - other).mean() < 2


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_that_nobody_wants_change_nothing(decoder: DecoderName, media: Path) -> None:
    """Skipped frames are decoded all the same: what is asked for later is still the right frame."""
    path = media / "h264_b_frames.mp4"
    _, all_frames, _ = read(path, decoder)
    source = open_frames(path, decoder)
    picked = [f.rgb().copy() for index, f in enumerate(source) if index % 7 == 3]
    source.close()
    assert source.n_frames == len(all_frames)
    for frame, expected in zip(picked, all_frames[3::7], strict=True):
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees: int, tmp_path: Path) -> None:
    stored = read(write_video(tmp_path / "stored.mp4", seconds=0.3), "pyav")[1]
    path = write_rotated(tmp_path / "shown.mp4", degrees=degrees, seconds=0.3)
    for a, b in zip(stored, read(path, "pyav")[1], strict=True):
        np.testing.assert_array_equal(b, np.rot90(a, -degrees // 90))  # clockwise
    for decoder in ("decord", "opencv"):
        assert "turned or mirrored" in problem(path, decoder).detail


@pytest.mark.parametrize("name", ["starts_at_5s.mkv", "starts_at_5s.ts", "starts_at_5s.mp4"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_time_counts_from_the_first_frame(name: str, decoder: DecoderName, media: Path) -> None:
    if decoder not in UNSUITED.get(name, ()):
        np.testing.assert_allclose(read(media / name, decoder)[0], np.arange(10) / 10, atol=1e-6)


def test_decord_hands_over_what_an_edit_list_cuts(media: Path, tmp_path: Path) -> None:
    """decord counts the frames before the cut and fills in copies for them, three of a hundred without a word."""
    assert problem(media / "negative_start.mp4", "decord").reason == "decode-errors"
    trimmed = write_video(tmp_path / "trimmed.mp4", seconds=10, start_seconds=-0.3)
    assert "-0.300 s" in problem(trimmed, "decord").detail
    for decoder in ("pyav", "opencv"):
        times, _, _ = read(trimmed, decoder)
        assert len(times) == 97 and times[-1] == pytest.approx(9.6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_header_cannot_stretch_a_video(decoder: DecoderName, media: Path) -> None:
    """over_reporting.mp4 declares a hundred times its length."""
    times, _, tail = read(media / "over_reporting.mp4", decoder)
    assert times[-1] + tail == pytest.approx(1.0)
    source = open_frames(media / "over_reporting.mp4", decoder)
    source.close()


def test_damage_is_counted_by_pyav(tmp_path: Path) -> None:
    path = flip_bytes(write_video(tmp_path / "flipped.mp4", seconds=3), share=0.05, seed=1)
    source = open_frames(path, "pyav")
    for frame in source:
        frame.rgb()
    source.close()
    assert source.n_errors > 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_cut_off_is_not_made_up(decoder: DecoderName, tmp_path: Path) -> None:
    """With its index in front, half a file still opens; nobody may return the frames of the other half."""
    path = truncate(write_video(tmp_path / "cut.mp4", seconds=4, faststart=True), fraction=0.5)
    if decoder == "decord":  # it does not even open
        assert problem(path, decoder).reason == "unreadable-container"
        return
    source = open_frames(path, decoder)
    frames = [frame.rgb().copy() for frame in source]
    source.close()
    assert 1 < len(frames) < 35


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("write", [write_text, write_audio_only], ids=["text", "audio"])
def test_what_is_no_video_does_not_open(
    decoder: DecoderName, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "x.mp4")
    assert problem(path, decoder).reason in ("unreadable-container", "no-video-stream")
    if decoder == "pyav" and write is write_audio_only:
        assert problem(path, decoder).reason == "no-video-stream"
        assert "audio" in problem(path, decoder).detail


def test_a_cover_is_no_video_stream(tmp_path: Path) -> None:
    from tests.videos import write_audio_with_cover

    path = write_audio_with_cover(tmp_path / "song.mp4")
    assert problem(path, "pyav").reason == "no-video-stream"


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile real.ts\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.0,\nreal.ts\n#EXT-X-ENDLIST\n",
    "hls with a byte order mark": "\ufeff\n#EXTM3U\n#EXTINF:2.0,\nreal.ts\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:full:2011"></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_playlist_is_not_followed(kind: str, suffix: str, decoder: DecoderName, tmp_path: Path) -> None:
    """FFmpeg would open the files or addresses that it names, and their frames would be stored under its name."""
    write_video(tmp_path / "real.ts", seconds=0.5)
    path = tmp_path / f"list{suffix}"
    path.write_text(PLAYLISTS[kind], encoding="utf-8")
    found = problem(path, decoder)
    assert found.reason == "unreadable-container" and "playlist" in found.detail


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_name_is_a_name(decoder: DecoderName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg takes `12:30.mp4` for a protocol and -i.mp4 for a flag; neither must happen below `--src .`."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "-i.mp4", "a b%20c?.mp4", "file:x.mp4", "[1]{2}*.mp4", "Ünï.mp4", "'q\".mp4"):
        write_video(tmp_path / name, seconds=0.2)
        assert len(read(Path(name), decoder)[1]) == 2, name


def test_a_number_pattern_is_a_name_too(tmp_path: Path) -> None:
    """FFmpeg would read im01.png in the place of a picture called im%02d.png."""
    write_image(tmp_path / "im%02d.png", width=64, height=48)
    write_image(tmp_path / "im01.png", width=32, height=32)
    assert read(tmp_path / "im%02d.png", "pyav")[1][0].shape == (48, 64, 3)


def test_gaps_of_hours_in_every_frame_are_damage(tmp_path: Path) -> None:
    """Header and timestamps agree on 27 minutes between frames: that is no video to sample 15 times a second."""
    path = write_video(tmp_path / "absurd.mp4")
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.find(b"stts") + 16, 0xFFFFFF)
    for kind, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20), (b"elst", 12)):
        if (at := data.find(kind)) > 0:
            struct.pack_into(">I", data, at + offset, 0x7FFFFFFF)
    path.write_bytes(data)
    source = open_frames(path, "pyav")
    times = [frame.pts_seconds for frame in source]
    source.close()
    assert source.n_errors == 9
    assert times[-1] + source.tail_seconds <= 9 * 10 + 60


def test_a_missing_file_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    for decoder in DECODERS:
        found = problem(tmp_path / "nowhere.mp4", decoder)
        assert found.reason == "missing-file" and "no such file" in found.detail


def test_long_videos_are_left_to_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """decord keeps more memory the longer it decodes; PyAV does not."""
    from pipeline.decoding.decoders import decord as module

    path = write_video(tmp_path / "v.mp4", seconds=2.0)
    module.DecordFrames(path).close()
    monkeypatch.setattr(module, "LONGEST_SECONDS", 1.0)
    with pytest.raises(DecodeProblem, match="too long for decord"):
        module.DecordFrames(path)
    assert open_frames(path, "pyav").declared.duration_seconds > 1.0


@pytest.mark.parametrize(("curve", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_high_dynamic_range_is_said_and_never_tone_mapped(curve: str, name: str, tmp_path: Path) -> None:
    params = f"transfer={curve}:colorprim=bt2020:colormatrix=bt2020nc"
    path = write_video(
        tmp_path / "hdr.mp4", seconds=0.5, pix_fmt="yuv420p10le", codec_options={"x264-params": params}
    )
    source = open_frames(path, "pyav")
    for frame in source:
        frame.rgb()
    source.close()
    assert source.notes == [f"high dynamic range ({name}): taken as coded, not tone-mapped"]
    assert "tone-maps" in problem(path, "opencv").detail


def test_a_single_picture_is_told_where_the_name_is_a_videos(media: Path, tmp_path: Path) -> None:
    def notes(path: Path) -> list[str]:
        source = open_frames(path, "pyav")
        assert sum(1 for _ in source) == source.n_frames
        source.close()
        return source.notes

    picture = write_image(tmp_path / "a.jpg")
    for name in ("clip.mp4", "clip.MKV", "clip.gif", "clip.jpeg"):
        (tmp_path / name).write_bytes(picture.read_bytes())
    for path in (picture, tmp_path / "clip.gif", tmp_path / "clip.jpeg", media / "one_frame.mp4"):
        assert notes(path) == [], path
    for path in (tmp_path / "clip.mp4", tmp_path / "clip.MKV"):
        assert notes(path) == [f"a single picture (jpeg) in a file that is named as a video ({path.suffix})"]
    if features.check("avif"):  # demuxed as the mov that it is named as
        Image.open(picture).save(tmp_path / "b.avif")
        named = (tmp_path / "b.avif").rename(tmp_path / "b.mp4")
        assert notes(named) == ["a single picture (avif) in a file that is named as a video (.mp4)"]


def test_a_stream_without_a_container_says_how_its_times_were_found(tmp_path: Path) -> None:
    own = write_numbered(tmp_path / "own.h264", container="h264", rate=30, n_frames=30)
    guess = write_numbered(
        tmp_path / "guess.mp4", container="mjpeg", codec="mjpeg", pix_fmt="yuvj420p", n_frames=30
    )
    h263 = write_numbered(
        tmp_path / "a.mp4", container="h263", codec="h263", width=128, rate=Fraction(30000, 1001), n_frames=30
    )
    for path, rate, how in (
        (own, "30", "the stream's own"),
        (h263, "29.97", "the stream's own"),
        (guess, "25", "a guess"),
    ):
        source = open_frames(path, "pyav")
        times = [frame.pts_seconds for frame in source]
        source.close()
        assert times == pytest.approx(np.arange(30) / float(rate), rel=1e-4)
        (note,) = source.notes
        assert f"placed at {rate} frames a second" in note and how in note


def test_packets_that_lost_a_part_are_counted(tmp_path: Path) -> None:
    """MPEG-TS numbers its packets: where some are missing, a decoder may patch the picture up without a word."""
    data = write_numbered(tmp_path / "whole.ts", n_frames=100, gop=50, b_frames=2, side=192).read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    lost = (len(packets) // 3, len(packets) // 2, 2 * len(packets) // 3)
    path = tmp_path / "lossy.ts"
    path.write_bytes(b"".join(packet for number, packet in enumerate(packets) if number not in lost))
    source = open_frames(path, "pyav")
    times = [frame.pts_seconds for frame in source]
    source.close()
    assert source.n_errors >= 1 and times[-1] > 3


def test_what_passes_for_times_without_a_container_is_not_believed(tmp_path: Path) -> None:
    """FFmpeg supposes B-frames in MPEG-1 and leaves a gap for them."""
    path = write_numbered(tmp_path / "a.m1v", codec="mpeg1video", container="mpeg1video", n_frames=30)
    source = open_frames(path, "pyav")
    times = [frame.pts_seconds for frame in source]
    source.close()
    assert times == pytest.approx(np.arange(30) / 25)


def test_fields_that_are_repeated_without_a_container_count(tmp_path: Path) -> None:
    """3:2 pulldown: pictures are shown for three and for two fields in turn."""
    path = write_numbered(tmp_path / "a.m2v", codec="mpeg2video", container="mpeg2video", n_frames=20)
    data, at, number = bytearray(path.read_bytes()), 0, 0
    while (at := data.find(b"\0\0\1\xb5", at)) >= 0:
        if data[at + 4] >> 4 == 8:  # picture coding extension (ISO/IEC 13818-2, 6.2.3.1)
            top, repeat = ((1, 1), (1, 0), (0, 1), (0, 0))[number % 4]
            data[at + 7] = data[at + 7] & ~0x82 | top << 7 | repeat << 1
            data[at + 8] |= 0x80  # progressive_frame
            number += 1
        elif data[at + 4] >> 4 == 1:
            data[at + 5] &= ~0x08  # progressive_sequence
        at += 4
    path.write_bytes(data)
    source = open_frames(path, "pyav")
    times = [frame.pts_seconds for frame in source]
    source.close()
    assert times == pytest.approx([0, *itertools.accumulate([0.06, 0.04] * 9 + [0.06])])


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_average_rate_does_not_say_how_long_the_last_frame_is_shown(
    decoder: DecoderName, suffix: str, tmp_path: Path
) -> None:
    """Five frames in 100 seconds: on average one in 20."""
    times = [0.0, 0.04, 0.08, 100.0, 100.04]
    path = write_numbered(tmp_path / f"a.{suffix}", times_seconds=times, time_base=Fraction(1, 1000))
    source = open_frames(path, decoder)
    seen = [frame.pts_seconds for frame in source]
    source.close()
    assert seen == pytest.approx(times)
    assert source.tail_seconds == pytest.approx(0.04, abs=1e-4)


def test_decord_names_the_times_that_it_lacks(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mkv", times_seconds=[0, 3.0], time_base=Fraction(1, 1000))
    found = problem(path, "decord")
    assert found.detail == "decord has no time for some of its frames"


def test_times_that_float32_cannot_hold_are_left_to_pyav(tmp_path: Path) -> None:
    """decord keeps times as float32: 200,000 s after the start of the clock they are 16 ms apart."""
    path = write_numbered(tmp_path / "a.mkv", start_seconds=200_000.0)
    assert "begin at 200000 s" in problem(path, "decord").detail
    times, _, _ = read(path, "opencv")
    np.testing.assert_allclose(times, np.arange(100) / 25, atol=1e-6)


def test_tiff_that_ffmpeg_cannot_show_is_a_problem(tmp_path: Path) -> None:
    picture = Image.fromarray(draw_number(77))
    picture.save(tmp_path / "jpeg.tiff", compression="jpeg")
    picture.save(tmp_path / "pages.tiff", compression="tiff_lzw", save_all=True, append_images=[picture])
    assert "JPEG inside TIFF" in problem(tmp_path / "jpeg.tiff", "pyav").detail
    source = open_frames(tmp_path / "pages.tiff", "pyav")
    assert [read_number(frame.rgb()) for frame in source] == [77]
    source.close()
    assert source.notes == ["2 pages, of which the first was taken"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_times_copied_out_of_avi_are_known_before_the_first_picture(suffix: str, tmp_path: Path) -> None:
    avi = write_numbered(tmp_path / "a.avi", b_frames=3, n_frames=100)
    source = open_frames(copy_packets(avi, tmp_path / f"a.{suffix}"), "pyav")
    seen = [(frame.pts_seconds, read_number(frame.rgb())) for frame in source]
    source.close()
    assert [number for _, number in seen] == list(range(100))
    np.testing.assert_allclose([time for time, _ in seen], np.arange(100) / 25, atol=1e-3)
    assert source.n_errors == 0
    assert source.notes == ["its presentation times run backwards: placed by decoding times"]


def test_a_codec_that_might_reorder_and_does_not_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, *itertools.accumulate([0.04, 0.28, 0.04, 0.04, 0.48] * 4)]
    make = {"codec": "mpeg2video", "times_seconds": times, "time_base": Fraction(1, 25)}
    path = write_numbered(tmp_path / "a.mkv", **make)  # type: ignore[arg-type]
    seen, _, _ = read(path, "pyav")
    np.testing.assert_allclose(seen, times, atol=1e-6)
