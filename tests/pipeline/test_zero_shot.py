"""Stored image features against words: the arithmetic is open_clip's own, by the very weights that made the features."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

import onepass
from cache.errors import FingerprintMismatch, InputError, WeightsError
from cache.features import imported_video
from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoLabel
from cache.writer import CacheWriter
from heads.report.zero_shot import score_table, summary_lines
from pipeline.backbones.weights import state_digest
from pipeline.zero_shot import text_sides, zero_shot
from tests.pipeline.backbones.conftest import quietly

MODEL = "tiny-words"
POSITIVE, NEGATIVE = ("two people fighting", "a violent brawl"), ("people walking",)


@pytest.fixture(scope="module", autouse=True)
def tiny_words(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model of two layers a tower that reads words by open_clip's own tokenizer."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    path = tmp_path_factory.mktemp("models") / f"{MODEL}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def model(tiny_words: None) -> Any:
    """As the stream's own weights are made: random, seed 3."""
    from pipeline.backbones.base import seeded

    with seeded(3):
        return quietly(lambda: open_clip.create_model(MODEL, pretrained=None, precision="fp32")).eval()


def fingerprint(model: Any, **weights: Any) -> dict[str, Any]:
    return {
        "stream": "clip",
        "kind": "open_clip",
        "model": MODEL,
        "weights": weights or {"tag": "random", "seed": 3, "digest": state_digest(model.visual.state_dict())},
        "sampling": {"fps": 2.0, "window": 1, "stride": 1},
        "precision": "fp32",
        "runtime": "torch",
    }


@pytest.fixture(scope="module")
def images(model: Any) -> list[torch.Tensor]:
    """Four videos of up to three pictures: [T, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1 + n % 3, 3, 32, 32, generator=generator) for n in range(4)]


@pytest.fixture(scope="module")
def cached(model: Any, images: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "a.zarr"
    videos: list[VideoFeatures] = []
    for number, pictures in enumerate(images):
        with torch.inference_mode():
            values = model.encode_image(pictures).numpy()
        spans = np.stack([np.arange(len(values)), np.arange(len(values)) + 1], axis=1).astype(np.float32)
        label = VideoLabel(number % 2, ("NonFight", "Fight")[number % 2])
        videos.append(imported_video(f"v{number}.mp4", {"clip": StreamTokens(values, spans)}, label))
    spec = StreamSpec("clip", 24, "float32", fingerprint(model))
    with CacheWriter.open(
        path, streams=[spec], dataset="x", label_names=("NonFight", "Fight"), provenance={}
    ) as writer:
        writer.commit(videos, [])
    return path


def plain_logits(model: Any, pictures: torch.Tensor) -> np.ndarray[Any, Any]:
    """By open_clip alone: encode, normalise, average the prompts of a side, softmax of scaled cosines."""
    tokenize = open_clip.get_tokenizer(MODEL)
    with torch.inference_mode():
        sides = []
        for prompts in (NEGATIVE, POSITIVE):
            mean = model.encode_text(tokenize(list(prompts)), normalize=True).mean(0)
            sides.append(mean / mean.norm())
        cosines = model.encode_image(pictures, normalize=True) @ torch.stack(sides).T
        both = (model.logit_scale.exp() * cosines).softmax(-1)
    return torch.logit(both[:, 1].double()).numpy()


def test_the_arithmetic_is_that_of_open_clip(cached: Path, model: Any, images: list[torch.Tensor]) -> None:
    with open_cache(cached) as cache:
        fields = cache.streams["clip"].fingerprint
        sides = text_sides("clip", fields, positive=POSITIVE, negative=NEGATIVE)
        found = zero_shot(cache, "clip", sides)
        expected = [plain_logits(model, pictures) for pictures in images]
        np.testing.assert_allclose(found.mean, [one.mean() for one in expected], atol=1e-4)
        np.testing.assert_allclose(found.highest, [one.max() for one in expected], atol=1e-4)
        np.testing.assert_allclose(sides.logits(cache.tokens("clip", 2).values), expected[2], atol=1e-4)
        swapped = text_sides("clip", fields, positive=NEGATIVE, negative=POSITIVE)
        np.testing.assert_allclose(zero_shot(cache, "clip", swapped).mean, -found.mean, atol=1e-9)
    assert sides.scale == pytest.approx(float(model.logit_scale.detach().exp())) and not sides.notes
    assert np.abs(found.mean).max() > 1e-3


def test_a_video_that_lacks_the_stream_has_no_score(
    model: Any, images: list[torch.Tensor], cached: Path, tmp_path: Path
) -> None:
    with open_cache(cached) as cache:
        specs = [replace(spec, optional=True) for spec in cache.specs]
        tokens = [cache.tokens("clip", index) for index in range(len(cache))]
        rows = [cache.videos.row(index) for index in range(len(cache))]
        sides = text_sides("clip", cache.streams["clip"].fingerprint, positive=POSITIVE, negative=NEGATIVE)
        whole = zero_shot(cache, "clip", sides)
    videos = [VideoFeatures(row, {"clip": one}) for row, one in zip(rows, tokens, strict=True)]
    videos[1] = VideoFeatures(rows[1], {}, {"clip": "no pictures"})
    with CacheWriter.open(
        tmp_path / "b.zarr", streams=specs, dataset="x", label_names=("NonFight", "Fight"), provenance={}
    ) as writer:
        writer.commit(videos, [])
    with open_cache(tmp_path / "b.zarr") as cache:
        found = zero_shot(cache, "clip", sides)
        table = list(
            csv.DictReader(score_table(cache, "clip", found.mean, found.highest).decode().splitlines())
        )
        lines = summary_lines(cache, "clip", found.mean, found.highest)
    assert np.isnan(found.mean).tolist() == np.isnan(found.highest).tolist() == [False, True, False, False]
    np.testing.assert_array_equal(np.delete(found.mean, 1), np.delete(whole.mean, 1))
    assert [row["probability_mean"] == row["logit_max"] == "" for row in table] == [False, True, False, False]
    assert "scored     3 videos" in lines[0] and lines[1] == "no score   1 videos, which lack the stream clip"
    assert "(3 labelled videos)" in lines[-1]


def test_one_prompt_a_side_is_get_logits(model: Any, images: list[torch.Tensor], cached: Path) -> None:
    tokens = open_clip.get_tokenizer(MODEL)([POSITIVE[0], NEGATIVE[0]])
    with torch.inference_mode():
        logits = model.get_logits(images[2], tokens)[0]
    with open_cache(cached) as cache:
        sides = text_sides(
            "clip", cache.streams["clip"].fingerprint, positive=POSITIVE[:1], negative=NEGATIVE
        )
        found = sides.logits(cache.tokens("clip", 2).values)
    np.testing.assert_allclose(found, (logits[:, 0] - logits[:, 1]).numpy(), atol=1e-4)


def test_weights_from_a_file_are_the_whole_model(model: Any, cached: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    digest = state_digest(model.visual.state_dict())
    fields = fingerprint(model, tag="file", digest=digest)
    whole = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(whole, tmp_path / "whole.safetensors")
    save_file({k: v for k, v in whole.items() if k.startswith("visual.")}, tmp_path / "half.safetensors")
    random = text_sides("clip", fingerprint(model), positive=POSITIVE, negative=NEGATIVE)

    def of(name: str | None, **changes: Any) -> Any:
        file = str(tmp_path / name) if name else None
        return text_sides("clip", fields | changes, positive=POSITIVE, negative=NEGATIVE, file=file)

    np.testing.assert_allclose(of("whole.safetensors").positive, random.positive, atol=1e-6)
    with pytest.raises(WeightsError, match="with its text tower.*missing"):
        of("half.safetensors")
    with pytest.raises(InputError, match="--clip-weights FILE"):
        of(None)
    with pytest.raises(FingerprintMismatch, match="the cache was made with weights sha256:0000"):
        of("whole.safetensors", weights={"tag": "file", "digest": f"sha256:{0:064x}"})


def test_other_streams_and_empty_prompts_are_refused(model: Any) -> None:
    other = fingerprint(model) | {"kind": "imported", "weights": {"tag": "imported", "digest": "blake2b:1f"}}
    with pytest.raises(InputError, match="weights imported .*needs a stream of the kind open_clip"):
        text_sides("clip", other, positive=POSITIVE, negative=NEGATIVE)
    with pytest.raises(InputError, match="--negative: say in words"):
        text_sides("clip", fingerprint(model), positive=POSITIVE, negative=[" "])


def test_a_prompt_that_is_too_long_is_said(model: Any) -> None:
    sides = text_sides("clip", fingerprint(model), positive=["fight " * 40], negative=NEGATIVE)
    assert len(sides.notes) == 1 and "fills the 12 tokens" in sides.notes[0]


def test_the_command_writes_scores_and_names_random_weights(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> int:
        prompts = [*(w for p in POSITIVE for w in ("--positive", p)), "--negative", NEGATIVE[0]]
        monkeypatch.setattr(sys, "argv", ["onepass", "zero-shot", str(cached), *prompts, *words])
        with pytest.raises(SystemExit) as stopped:
            onepass.main()
        return int(stopped.value.code or 0)

    out = tmp_path / "scores.csv"
    assert call("--stream", "clip", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "scored     4 videos by RANDOM weights" in said and "mean over tokens: AUROC" in said
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    with open_cache(cached) as cache:
        sides = text_sides("clip", cache.streams["clip"].fingerprint, positive=POSITIVE, negative=NEGATIVE)
        found = zero_shot(cache, "clip", sides)
        assert [row["id"] for row in rows] == cache.videos.id.tolist()
    assert [float(row["logit_mean"]) for row in rows] == pytest.approx(found.mean.tolist())
    assert [float(row["probability_max"]) for row in rows] == pytest.approx(
        (1 / (1 + np.exp(-found.highest))).tolist()
    )
    assert rows[1]["label"] == "Fight" and rows[1]["weights"] == "clip: random (seed 3)"
    assert call("--stream", "audio", "--out", str(out)) == 2
    assert "holds no stream audio" in capsys.readouterr().err
    assert call("--stream", "clip", "--out", str(tmp_path / "scores.txt")) == 2
