"""Sound on the pictures' clock: what happens at one moment lands at one moment, in every container, and nothing is made up."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import DecodeProblem, open_frames
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.hearing import NO_SOUND, _Placed, _Windows, hear, lacking, sound_alone
from pipeline.decoding.logmel import PATCH_SECONDS, RATE_HZ, patch_statistics
from pipeline.decoding.plain_sound import plain_statistics, plain_windows
from pipeline.decoding.sampling import Sampling, window_starts
from pipeline.decoding.sound import Absent, Heard, SoundTrack, sound_spans
from tests.sounds import tone, write_tone, write_with_sound
from tests.videos import write_video

WINDOW = round(PATCH_SECONDS * RATE_HZ)
SAMPLING = Sampling(fps=RATE_HZ, window=WINDOW, stride=WINDOW)
WITHIN_SECONDS = 0.02
OPUS = {"codec": "libopus", "sample_format": "flt"}
PCM = {"codec": "pcm_s16le", "sample_format": "s16"}
CONTAINERS: dict[str, dict[str, Any]] = {
    "mp4-aac.mp4": {},
    "mkv-opus.mkv": OPUS,
    "avi-pcm.avi": {**PCM, "video_codec": "mpeg4"},
    "mpeg-ts-aac.ts": {"start_seconds": 10.0},
    "mpeg-ts-mp2.ts": {"codec": "mp2", "sample_format": "s16"},
    "mov-pcm.mov": PCM,
    "mp4-mp3.mp4": {"codec": "libmp3lame"},
    "webm-opus.webm": {**OPUS, "video_codec": "libvpx"},
    "begins-late-on-the-clock.mp4": {"start_seconds": 0.4},
    "sound-begins-late.mp4": {"sound_from": 0.7},
    "sound-begins-late.mkv": {**OPUS, "sound_from": 0.7},
    "a-hole-in-the-sound.mkv": {**OPUS, "hole": (1.5, 2.2)},
    "a-hole-in-the-sound.mp4": {"hole": (1.5, 2.2)},
    "8-kHz.mkv": {**PCM, "rate_hz": 8000},
    "192-kHz-float.mkv": {"codec": "pcm_f32le", "sample_format": "flt", "rate_hz": 192_000},
    "24-bit.mkv": {"codec": "flac", "sample_format": "s32"},
    "surround.mp4": {"layout": "5.1"},
    "7.1.mkv": {"codec": "flac", "sample_format": "s16", "layout": "7.1"},
}


def heard(path: Path, **options: Any) -> tuple[Heard, list[NDArray[np.float32]], list[float], float]:
    """What is heard, its windows, the times of white pictures, and the duration of the pictures."""
    source = open_frames(path, "pyav")
    flashes = []
    for frame in source:
        if frame.rgb().mean() > 128:
            flashes.append(frame.pts_seconds)
    duration = frame.pts_seconds + source.tail_seconds
    source.close()
    windows: list[NDArray[np.float32]] = []
    given: dict[str, Any] = {"origin_seconds": source.first_seconds} | options
    found = hear(
        path,
        SoundTrack(RATE_HZ),
        SAMPLING,
        duration_seconds=duration,
        emit=windows.append,
        beat=lambda: None,
        **given,
    )
    return found, windows, flashes, duration


def line_of(found: Heard, windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The samples of all windows at their places by the spans."""
    line = np.zeros(round(found.end_seconds * RATE_HZ) + 2, np.float32)
    for (start, _), window in zip(sound_spans(found, SAMPLING), windows, strict=True):
        begin = round(float(start) * RATE_HZ)
        line[begin : begin + len(window)] = window[: len(line) - begin]
    return line


def click_times(line: NDArray[np.float32]) -> list[float]:
    loud = np.flatnonzero(np.abs(line) > 0.05) / RATE_HZ
    return [float(loud[0]), *(float(b) for a, b in itertools.pairwise(loud) if b - a > 0.3)]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_click_and_a_flash_of_one_moment_land_together(name: str, tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / name, **CONTAINERS[name])
    found, windows, flashes, duration = heard(path)
    assert len(flashes) == 2
    assert click_times(line_of(found, windows)) == pytest.approx(flashes, abs=WITHIN_SECONDS)
    spans = sound_spans(found, SAMPLING)
    assert spans[-1, 1] <= duration and (np.diff(spans[:, 0]) > 0).all()
    assert found.start_seconds == pytest.approx(CONTAINERS[name].get("sound_from", 0.0), abs=0.03)


@pytest.mark.parametrize("name", ["mp4-aac.mp4", "mpeg-ts-aac.ts", "sound-begins-late.mkv"])
def test_the_origin_is_found_where_a_decoder_does_not_say_it(name: str, tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / name, **CONTAINERS[name])
    told, windows, *_ = heard(path)
    looked_up, others, *_ = heard(path, origin_seconds=None)
    assert told == looked_up
    assert all(np.array_equal(a, b) for a, b in zip(windows, others, strict=True))


@pytest.mark.parametrize(
    "name",
    [name if n % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for n, name in enumerate(CONTAINERS)],
)
def test_windows_are_those_of_the_whole_track(name: str, tmp_path: Path) -> None:
    """Against code that lays all samples into one array and cuts it afterwards, as `verify` does."""
    path = write_with_sound(tmp_path / name, **CONTAINERS[name])
    _, windows, _, duration = heard(path)
    count, plain, _ = plain_windows(path, SoundTrack(RATE_HZ), SAMPLING, duration_seconds=duration)
    assert [len(window) for window in windows] == [len(plain[n]) for n in range(count)]
    for one, other in zip(map(patch_statistics, windows), map(plain_statistics, plain.values()), strict=True):
        # after a hole the rest may lie half a sample elsewhere
        assert np.abs(one - other).max() <= (0.05 if "hole" in name else 1e-3) * np.abs(other).max()


def test_sound_is_cut_to_the_pictures(tmp_path: Path) -> None:
    longer = write_with_sound(
        tmp_path / "longer.mkv", **OPUS, seconds=2.0, at_seconds=(1.0,), sound_seconds=3.5
    )
    found, _, _, duration = heard(longer)
    assert duration == pytest.approx(2.0) and found.end_seconds == pytest.approx(2.0, abs=1e-3)
    shorter = write_with_sound(
        tmp_path / "shorter.mkv", **OPUS, seconds=3.0, at_seconds=(0.2,), sound_seconds=1.0
    )
    found, windows, *_ = heard(shorter)
    assert found.end_seconds == pytest.approx(1.0, abs=0.03) and len(windows) == 2


@pytest.mark.parametrize("at", ["before", "after"])
def test_sound_outside_of_the_pictures_is_none(at: str, tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "a.mkv", **PCM, seconds=1.0, at_seconds=(0.4,), sound_from=0.2)
    origin = {"before": 50.0, "after": -50.0}[at]
    with pytest.raises(Absent, match="gives no sound while there are pictures"):
        heard(path, origin_seconds=origin)
    late = write_with_sound(
        tmp_path / "late.mkv", **PCM, seconds=1.0, at_seconds=(), sound_from=1.5, sound_seconds=1
    )
    with pytest.raises(Absent, match="gives no sound while there are pictures"):
        heard(late)
    assert plain_windows(late, SoundTrack(RATE_HZ), SAMPLING, duration_seconds=1.0)[0] == 0


def test_samples_that_are_no_numbers_are_a_gap_and_never_a_feature(tmp_path: Path) -> None:
    path = write_with_sound(
        tmp_path / "a.mkv",
        codec="pcm_f32le",
        sample_format="flt",
        seconds=3.0,
        at_seconds=(0.4, 2.4),
        spoiled=(1.0, 1.6),
    )
    found, windows, flashes, duration = heard(path)
    assert all(np.isfinite(window).all() for window in windows)
    line = line_of(found, windows)
    assert not line[round(1.1 * RATE_HZ) : round(1.5 * RATE_HZ)].any()
    assert click_times(line) == pytest.approx(flashes, abs=WITHIN_SECONDS)
    assert "samples that are not finite" in found.notes[0]
    count, plain, _ = plain_windows(path, SoundTrack(RATE_HZ), SAMPLING, duration_seconds=duration)
    assert [len(plain[n]) for n in range(count)] == [len(window) for window in windows]
    spoiled = write_with_sound(
        tmp_path / "b.mkv",
        codec="pcm_f32le",
        sample_format="flt",
        seconds=1.0,
        at_seconds=(),
        spoiled=(0.0, 9.0),
    )
    with pytest.raises(Absent, match="audio could not be decoded: samples that are not finite"):
        heard(spoiled)


def test_a_resampler_that_fails_costs_the_sound_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_with_sound(tmp_path / "a.mp4")

    def fail(*_: object) -> None:
        raise ValueError("Invalid sample rate")

    monkeypatch.setattr("pipeline.decoding.hearing.av.AudioResampler", fail)
    with pytest.raises(Absent, match="audio could not be decoded: Invalid sample rate"):
        heard(path)


def test_an_animation_holds_no_sound(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.webp"
    frames = [Image.new("RGB", (32, 32), (n * 40, 0, 0)) for n in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(Absent, match=f"^{NO_SOUND}$"):
        heard(path, origin_seconds=0.0)


@pytest.mark.parametrize("half", [0.5, 1.5, 2.5])
def test_spans_are_as_many_as_windows_where_the_end_lies_between_two_samples(half: float) -> None:
    """Durations such as 29.97 frames a second give end in half a sample; spans must not round other than windows do."""
    for start in (0, 1, 2):
        for whole in (WINDOW, WINDOW + 1, 2 * WINDOW):
            duration = (start + whole + half) / RATE_HZ
            placed, windows = _Placed(RATE_HZ, duration), _Windows(SAMPLING)
            made = 0
            for piece in placed.take(start / RATE_HZ, np.zeros(3 * WINDOW, np.float32)):
                made += len(list(windows.push(piece)))
            made += len(list(windows.finish()))
            end = min(start / RATE_HZ + windows.n_samples / RATE_HZ, duration)
            assert len(sound_spans(Heard(start / RATE_HZ, end, windows.n_samples), SAMPLING)) == made


def test_less_than_a_window_is_one_window_as_it_is(tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "short.mp4", seconds=0.4, at_seconds=(0.2,))
    found, windows, *_ = heard(path)
    assert [len(window) for window in windows] == [round(0.4 * RATE_HZ)]
    np.testing.assert_allclose(sound_spans(found, SAMPLING), [[0.0, 0.4]], atol=1e-6)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    mute = write_video(tmp_path / "mute.mp4", seconds=1)
    with pytest.raises(Absent, match=f"^{NO_SOUND}$"):
        heard(mute)
    path = write_with_sound(tmp_path / "a.mp4")
    with pytest.raises(Absent, match="no audio stream 3, there are 1"):
        hear(
            path,
            SoundTrack(RATE_HZ, 3),
            SAMPLING,
            origin_seconds=0.0,
            duration_seconds=4.0,
            emit=lambda _: None,
            beat=lambda: None,
        )
    with pytest.raises(Absent, match="gives no sound while there are pictures"):
        heard(path, origin_seconds=-100.0)


def test_damaged_sound_is_heard_as_far_as_it_goes_or_absent_with_the_reason(tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "a.mkv", codec="flac", sample_format="s16")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data) // 3, len(data), 400):
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    try:
        found, windows, *_ = heard(path, origin_seconds=0.0)
    except Absent as reason:
        assert str(reason).startswith("audio could not be decoded: ")
    else:
        assert len(windows) == len(sound_spans(found, SAMPLING)) and all(
            np.isfinite(window).all() for window in windows
        )


def test_silence_is_sound(tmp_path: Path) -> None:
    found, windows, *_ = heard(write_with_sound(tmp_path / "silent.mp4", silent=True))
    assert len(sound_spans(found, SAMPLING)) == 5 and not any(window.any() for window in windows)


def test_the_track_can_be_chosen(tmp_path: Path) -> None:
    path = write_with_sound(tmp_path / "two.mkv", **PCM, tracks=2)
    loudest = []
    for track in (0, 1):
        windows: list[NDArray[np.float32]] = []
        found = hear(
            path,
            SoundTrack(RATE_HZ, track),
            SAMPLING,
            origin_seconds=0.0,
            duration_seconds=4.0,
            emit=windows.append,
            beat=lambda: None,
        )
        assert found.notes == (f"audio stream {track} was taken of 2",)
        loudest.append(max(float(np.abs(window).max()) for window in windows))
    assert loudest[1] == pytest.approx(loudest[0] / 2, rel=0.05)


def test_gaps_are_silence_and_overlaps_are_dropped() -> None:
    placed = _Placed(100, 10.0)
    taken = [
        placed.take(at, np.full(n, value, np.float32)) for at, n, value in ((-0.5, 100, 1), (1.0, 50, 2))
    ]
    taken += [placed.take(1.2, np.full(100, 3, np.float32)), placed.take(9.9, np.full(50, 4, np.float32))]
    line = np.concatenate([piece for pieces in taken for piece in pieces])
    assert len(line) == 1000 and placed.done and placed.start == 0
    assert line[:50].tolist() == [1] * 50 and not line[50:100].any()
    assert line[100:150].tolist() == [2] * 50 and line[150:220].tolist() == [3] * 70
    assert not line[220:990].any() and line[990:].tolist() == [4] * 10
    assert placed.silence_seconds == pytest.approx(0.5 + 7.7)


@pytest.mark.parametrize(
    ("window", "stride", "n"), [(10, 10, 95), (10, 4, 97), (10, 10, 7), (10, 10, 100), (8, 3, 8)]
)
def test_windows_are_those_of_the_grid_however_samples_come(window: int, stride: int, n: int) -> None:
    samples = np.arange(n, dtype=np.float32)
    sampling = Sampling(fps=10, window=window, stride=stride)
    expected = [samples[begin : begin + window].tolist() for begin in window_starts(n, sampling)]
    for size in (1, 3, 50, 200):
        made = _Windows(sampling)
        found = [w.tolist() for at in range(0, n, size) for w in made.push(samples[at : at + size])]
        found += [w.tolist() for w in made.finish()]
        assert found == expected


def test_memory_does_not_grow_with_the_sound() -> None:
    made = _Windows(SAMPLING)
    block = np.zeros(1024, np.float32)
    for _ in range(100):
        for _window in made.push(block):
            pass
    tracemalloc.start()
    for _ in range(10_000):  # eleven minutes
        for _window in made.push(block):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_windows_are_cut_without_laying_out_the_track(tmp_path: Path) -> None:
    """Chosen ones equal those of all, and take memory of their own size: here 3 of 250 windows at 48 kHz."""
    path = write_tone(tmp_path / "long.wav", seconds=240.0, rate_hz=48_000)
    given: dict[str, Any] = {"duration_seconds": None}
    tracemalloc.start()
    count, chosen, end = plain_windows(
        path, SoundTrack(RATE_HZ), SAMPLING, choose=lambda n: (0, n // 2, n - 1), **given
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (count, end) == (250, pytest.approx(240.0)) and sorted(chosen) == [0, 125, 249]
    assert peak < 5_000_000  # the track is 46 MB of float32
    expected = tone(seconds=240.0, rate_hz=RATE_HZ)
    for number, window in chosen.items():
        assert np.abs(window - expected[number * WINDOW :][:WINDOW])[50:-50].max() < 2e-3


def test_sound_without_pictures_keeps_its_own_clock(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.m4a", seconds=2.5, rate_hz=44_100, codec="aac")
    plan = StreamPlan("audio", SAMPLING, FramePlan("grey", 1), sound=SoundTrack(RATE_HZ))
    seen = StreamPlan("image", Sampling(2.0), FramePlan("grey", 1))
    windows: list[Any] = []
    video = sound_alone(path, (seen, plan), emit=lambda _, w: windows.append(w), beat=lambda: None)
    assert video.absent == {"image": "no video stream"} and list(video.heard) == ["audio"]
    assert video.duration_seconds == pytest.approx(2.5, abs=0.05) == video.heard["audio"].end_seconds
    assert (video.n_frames, video.width, video.fps) == (0, 0, 0.0) and len(windows) == 3
    count, plain, end = plain_windows(path, SoundTrack(RATE_HZ), SAMPLING, duration_seconds=None)
    assert count == 3 and end == pytest.approx(video.duration_seconds, abs=1e-3)
    for one, other in zip(windows, plain.values(), strict=True):
        assert np.abs(one - other).max() < 1e-3
    (tmp_path / "noise.wav").write_bytes(path.read_bytes()[:60])
    with pytest.raises(DecodeProblem, match="unreadable-container"):
        sound_alone(tmp_path / "noise.wav", (plan,), emit=lambda *_: None, beat=lambda: None)


def test_a_clock_that_jumps_is_not_followed_without_pictures() -> None:
    """An hour's jump would be an hour of silence, or an hour of lost sound."""
    ones = np.ones(1600, np.float32)
    placed = _Placed(1000, None, declared_seconds=10.0)
    times = (5.0, 3605.0, 3606.6, 5.0, 6.6)
    found = np.concatenate([piece for at in times for piece in placed.take(at, ones)])
    assert found.tolist() == [1.0] * 8000 and placed.n_jumps == 2 and placed.start == 5000
    gap = np.concatenate(list(placed.take(10.0, ones)))
    assert len(gap) == 1800 + 1600 and placed.silence_seconds == pytest.approx(1.8)


def test_what_is_lacking_is_seen_in_the_header(tmp_path: Path) -> None:
    """Whether a run needs it decides; no picture is decoded for it."""
    sound = StreamPlan("audio", SAMPLING, FramePlan("grey", 1), sound=SoundTrack(RATE_HZ))
    second = replace(sound, name="second", sound=SoundTrack(RATE_HZ, 1))
    image = StreamPlan("image", Sampling(2.0), FramePlan("grey", 1))
    mute = write_video(tmp_path / "mute.mp4", seconds=0.5)
    one = write_tone(tmp_path / "one.wav", seconds=0.5, rate_hz=8000)
    assert lacking(mute, (image, sound), ("audio",), False) == ""
    assert lacking(mute, (image, sound), (), False) == f"audio: {NO_SOUND}"
    assert lacking(one, (image, sound), (), False) == ""
    assert lacking(mute, (sound,), ("audio",), False) == f"audio: {NO_SOUND}; no other stream was asked for"
    assert lacking(mute, (sound,), ("audio",), True) == ""  # added to what has pictures
    assert lacking(one, (sound, second), ("audio", "second"), False) == ""
    assert lacking(one, (sound, second), ("audio",), False) == "second: no audio stream 1, there are 1"
    (tmp_path / "text.mp4").write_text("no video")
    assert lacking(tmp_path / "text.mp4", (sound,), (), False) == ""  # the decode says what it is
