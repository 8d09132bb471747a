"""Words that mean something, from files to a head: threats and small talk are told apart, and words, sound and pictures together

tell what none of them tells alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import onepass
from cache.reader import open_cache
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig
from pipeline.backbones.load import BackboneConfig
from pipeline.demo_videos import draw_frames
from tests.pipeline.trees import run
from tests.sounds import clicks
from tests.spoken import SMALL_TALK, THREATS
from tests.videos import write_video
from tests.words import srt

pytestmark = pytest.mark.usefixtures("forked_workers")

RATE_HZ, SECONDS, FPS = 16_000, 1.0, 10


def ended_with(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["onepass", *map(str, words)])
        onepass.main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("without_figures")
def test_threats_and_small_talk_are_told_apart_out_of_fold(tmp_path: Path) -> None:
    """60 videos whose pictures say nothing, two cuts of each of 30 recordings, no line twice."""
    for name, lines in (("Fight", THREATS), ("NonFight", SMALL_TALK)):
        for n, line in enumerate(lines):
            video = tmp_path / "data" / name / f"{name[0]}rec{n // 2}_{n % 2}.mp4"
            write_video(video, seconds=0.3, seed=n + 100 * (name == "Fight"))
            video.with_suffix(".srt").write_text(srt([(0.0, 0.3, f"<i>{line}</i>")]), encoding="utf-8")
    cache, head = tmp_path / "c.zarr", tmp_path / "head"
    device = ("--device", "cpu")
    assert not ended_with(
        "extract", "--src", tmp_path / "data", "--out", cache, "--streams", "text", *device, "--workers", "1"
    )
    with open_cache(cache) as opened:
        assert (
            opened.streams["text"].n_tokens == len(opened) == 60 and not (opened.absent("text") != "").any()
        )
    assert not ended_with(
        "train-head", "--features", cache, "--out", head, "--model", "logistic", "--cv", "5", *device
    )
    found = TrainedHead.load(head).info.metrics
    assert found["out-of-fold"]["auroc"] >= 0.9, found


def write_clip(path: Path, *, fights: bool, clicking: bool | None, seed: int) -> None:
    """Pictures that move violently or calmly, with sound that clicks or not, or without sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [n / FPS for n in range(round(SECONDS * FPS))]
    frames = draw_frames(times, motion="violent" if fights else "calm", width=64, height=48, seed=seed)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = None if clicking is None else out.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        packets = []
        for n, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound is not None:
            line = clicks(RATE_HZ, SECONDS, (0.2, 0.5, 0.8) if clicking else ())
            heard = av.AudioFrame.from_ndarray((line * 32767).astype(np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            packets += [*sound.encode(heard), *sound.encode(None)]
        for packet in packets:
            if packet.size:
                out.mux(packet)


def spoken(rng: np.random.Generator, lines: Sequence[str]) -> str:
    """Two lines of these."""
    one, other = (lines[int(n)] for n in rng.choice(len(lines), 2, replace=False))
    return srt([(0.0, 0.5, one), (0.5, 1.0, other)])


def auroc(path: Path, **settings: Any) -> float:
    with open_cache(path) as cache:
        head = train_head(cache, TrainConfig().updated({"n_resamples": 0, **settings}), cv=3)
    found = head.training.cross_validation.head.metrics.auroc  # type: ignore[union-attr]
    assert found is not None
    return found


@pytest.mark.slow
def test_together_streams_tell_what_none_tells_alone(tmp_path: Path) -> None:
    """Of 240 videos the class is only in the pictures, only in the sound, only in the words, or in any of them; a fifth of what

    says nothing is missing.
    """
    rng = np.random.default_rng(0)
    for n in range(240):
        label = (n // 2) % 2
        said = [False] * 3
        telling = (
            {int(rng.integers(3))}
            if rng.random() < 0.75
            else {k for k in range(3) if rng.random() < 0.6} or {0}
        )
        if label:
            said = [k in telling for k in range(3)]
        gone = {k for k in (1, 2) if k not in telling and rng.random() < 0.2}
        path = tmp_path / "data" / ("Fight" if label else "NonFight") / f"s{n // 2}_{n % 2}.mkv"
        write_clip(path, fights=said[0], clicking=None if 1 in gone else said[1], seed=n)
        if 2 not in gone:
            words = spoken(rng, THREATS if said[2] else SMALL_TALK)
            path.with_suffix(".srt").write_text(words, encoding="utf-8")
    streams = ("motion", "audio", "text")
    report = run(tmp_path / "data", tmp_path / "c.zarr", backbones=BackboneConfig.of(streams, device="cpu"))
    assert report.adds_up and report.stored == 240
    assert report.absent["audio: no audio stream"] > 20 and report.absent["text: no transcript"] > 20
    alone = {name: auroc(tmp_path / "c.zarr", model="logistic", streams=name) for name in streams}
    late = auroc(tmp_path / "c.zarr", model="logistic")
    joined = auroc(tmp_path / "c.zarr", model="fusion", width=32, epochs=40, lr=2e-3)
    print({"alone": alone, "late": late, "joined": joined})
    assert max(alone.values()) < 0.8 and min(late, joined) >= 0.95, (alone, late, joined)
