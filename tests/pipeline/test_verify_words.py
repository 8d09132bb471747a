"""`verify` of words: what it orders, joins and splits with is none of the run's own code, so a fault there is seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.reader import open_cache
from cache.schema import StreamTokens
from pipeline.backbones import text
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.backbones.text import TextBackbone
from pipeline.decoding import reading
from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.words import Cue, Transcript, in_order
from pipeline.verify import compare_video, verdicts
from tests.pipeline.backbones.kinds.test_logmel import rewritten
from tests.pipeline.trees import run
from tests.videos import write_video
from tests.words import srt, write_encoder

pytestmark = pytest.mark.usefixtures("forked_workers")

JOINED, HALVED = text._joined, text._halved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny", longest=64)


def _texts_once(cues: Iterable[Cue]) -> tuple[Cue, ...]:
    return tuple({cue.text: cue for cue in reversed(in_order(cues))}.values())[::-1]


def _texts_turned(first: Any, second: Any, window_seconds: float) -> Any:
    both = JOINED(first, second, window_seconds)
    return both and replace(both, text=f"{second.text} {first.text}")


FAULTS = {
    "a repeated cue dropped at another time": (reading, "in_order", _texts_once),
    "joined whatever the window": (text, "_joined", lambda a, b, _: JOINED(a, b, 1e9)),
    "never joined": (text, "_joined", lambda *_: None),
    "joined the wrong way round": (text, "_joined", _texts_turned),
    "halves that last as long as the whole": (
        text,
        "_halved",
        lambda piece, fits: (replace(half, end_seconds=piece.end_seconds) for half in HALVED(piece, fits)),
    ),
}


@pytest.fixture(scope="module")
def one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of one video with cues that are repeated, joined and split; `data/a.mp4` beside it."""
    video = write_video(tmp_path_factory.mktemp("one") / "data" / "a.mp4", seconds=4)
    cues = [(0.0, 0.5, "stop it"), (0.5, 0.9, "now"), (0.5, 0.9, "now"), (2.0, 2.4, "stop it")]
    video.with_suffix(".srt").write_text(srt([*cues, (2.5, 2.9, "a b " * 50)]), encoding="utf-8")
    path = video.parent.with_name("c.zarr")
    run(video.parent, path, backbones=one_second(folder), dtype="float32")
    return path


def one_second(folder: Path) -> BackboneConfig:
    return BackboneConfig.of((f"text=transformers:{folder},window=1",), device="cpu", precision="fp32")


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_sees_a_fault_of_the_code_that_reads(
    fault: str, one: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted where runs order, join and split, and still there when verify looks: the plain side shares none of it."""
    video, backbone = one.parent / "data" / "a.mp4", load_backbones(one_second(folder))["text"]
    given = Transcript("a.srt", video.with_suffix(".srt"))
    assert isinstance(backbone, TextBackbone) and backbone.plan.words is not None
    monkeypatch.setattr(*FAULTS[fault])
    words = reading.read_words(
        video,
        backbone.plan.words,
        transcript=given,
        origin_seconds=0.0,
        duration_seconds=4.0,
        beat=lambda: None,
    )
    pieces = backbone.pieces(words)
    values = backbone.embed(torch.from_numpy(backbone.rows(pieces))).numpy()
    spans = np.array([(piece.start_seconds, piece.end_seconds) for piece in pieces], np.float32)

    def verified(path: Path) -> bool:
        with open_cache(path) as cache:
            found = compare_video(
                cache, 0, video, {"text": backbone}, rng=np.random.default_rng(0), transcript=given
            )
            (verdict,) = verdicts(cache, list(found.comparisons))
        return verdict.ok and verdict.n_tokens == 4

    assert verified(one)
    wrong = rewritten(
        one,
        tmp_path / "wrong.zarr",
        lambda video: replace(video, tokens={"text": StreamTokens(values, spans)}),
    )
    try:
        assert not verified(wrong)
    except DecodeProblem as problem:
        assert "were due" in problem.detail or "lies elsewhere" in problem.detail
