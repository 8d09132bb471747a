"""Unusual input through the train-head command: a clear error or a correct result, as docs/evaluation.md says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.reader import open_cache
from heads.cli.train import main
from heads.scoring.metrics import auroc
from heads.trained.head import TrainedHead
from heads.training.losses import HeadLoss
from tests.heads.synthetic import features, toy_videos, write_cache

pytestmark = pytest.mark.usefixtures("without_figures")

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
QUICK = ("--no-cv", "--epochs", "3", "--batch-size", "16", "--set", "n_resamples=20", "--device", "cpu")

Train = Callable[..., str]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Train:
    """Runs train-head; gives what it printed, or its error with the exit code in front."""

    def run(cache: Path, *arguments: object) -> str:
        words = ["train-head", "--features", str(cache), "--out", str(tmp_path / "head"), *QUICK]
        monkeypatch.setattr(sys, "argv", [*words, *map(str, arguments)])
        try:
            main()
        except SystemExit as stopped:
            if stopped.code:
                return f"{stopped.code} {capsys.readouterr().err}"
        return capsys.readouterr().out

    return run


def documented(message: str, *fragments: str) -> None:
    """Every fragment is in the message and in the table of the docs."""
    table = DOCS.read_text(encoding="utf-8")
    for fragment in fragments:
        assert fragment in message
        assert fragment in table


def test_labels_whose_keys_match_nothing(train: Train, toy_path: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"other_{i}.mp4,{i % 2}\n" for i in range(60)))
    said = train(toy_path, "--labels", labels)
    assert said.startswith("2 error: ")
    documented(said, "no label matched any video by column 'id'; keys must be paths, file names or clip ids")
    assert "v0000.mp4" in said
    assert "other_0.mp4" in said


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_label_that_is_nan(train: Train, toy_path: Path, tmp_path: Path, kind: str) -> None:
    labels = tmp_path / f"labels.{kind}"
    values = {v.row.id: float("nan") if i == 3 else v.row.label for i, v in enumerate(toy_videos())}
    if kind == "json":
        labels.write_text(json.dumps(values))
    else:
        labels.write_text("id,label\n" + "".join(f"{key},{value}\n" for key, value in values.items()))
    said = train(toy_path, "--labels", labels)
    assert said.startswith("2 error: ")
    documented(said, "the label of 'train/Fight/v0003.mp4' is 'nan'; fill it in or remove the row")
    assert labels.name in said
    if kind == "csv":
        documented(said, "line 5")


@pytest.mark.parametrize(("label", "missing"), [(0, "positive"), (1, "negative")])
def test_a_split_of_one_class(train: Train, tmp_path: Path, label: int, missing: str) -> None:
    rng = np.random.default_rng(0)
    videos = [
        features(i, label=i % 2 if i < 16 else label, rng=rng, split="train" if i < 16 else "val")
        for i in range(32)
    ]
    said = train(write_cache(tmp_path / "c.zarr", videos))
    assert said.startswith("2 error: ")
    assert (
        f"the videos of split val hold no {missing} video (16 {'negative' if label == 0 else 'positive'})"
        in said
    )
    documented(said, "; both classes are needed")
    if label == 0:
        documented(said, "the videos of split val hold no positive video (16 negative)")


def test_no_positives_at_all(train: Train, tmp_path: Path) -> None:
    videos = [features(i, label=0, rng=np.random.default_rng(i)) for i in range(6)]
    said = train(write_cache(tmp_path / "c.zarr", videos))
    assert said.startswith("2 error: ")
    documented(said, "the labelled videos hold no positive video (6 negative); both classes are needed")


def test_a_cache_with_one_video(train: Train, tmp_path: Path) -> None:
    said = train(write_cache(tmp_path / "c.zarr", toy_videos()[:1]))
    assert said.startswith("2 error: ")
    documented(said, "only one labelled video; a head needs at least two of each class")


def test_groups_too_few_to_hold_out(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [features(i, label=i % 2, rng=rng, source=f"only {i % 2}") for i in range(8)]
    said = train(write_cache(tmp_path / "c.zarr", videos))
    assert said.startswith("2 error: ")
    documented(said, "come from 1 source groups with negatives and 1 with positives; 2 of each are needed")


def test_one_positive_in_200(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [
        features(
            i,
            label=int(i % 201 == 0),
            rng=rng,
            split="train" if i < 402 else "val",
            source=f"s{i}",
            signal=4.0,
            dims={"clip": 6},
        )
        for i in range(804)
    ]
    said = train(write_cache(tmp_path / "c.zarr", videos, dims={"clip": 6}))
    assert "pos_weight 200.0000 (400 NonFight / 2 Fight in train)" in said
    documented("pos_weight` 200", "pos_weight` 200")
    head = TrainedHead.load(tmp_path / "head")
    assert head.info.pos_weight == 200.0
    assert head.info.metrics["val"]["n_positive"] == 2
    assert head.info.metrics["val"]["auroc"] > 0.95
    assert head.info.metrics["val"]["recall"] == 1.0
    assert head.info.metrics["val"]["precision"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("model", ["attention-pool", "transformer", "fusion"])
def test_tokens_of_length_1_and_5000(train: Train, tmp_path: Path, model: str) -> None:
    dims = {"slowfast": 4} if model == "fusion" else {"clip": 4, "slowfast": 4}
    long = 2500 if model == "fusion" else 5000  # the first stream has twice as many tokens
    extra = (
        ()
        if model == "attention-pool"
        else ("--width", 4, "--heads", 1, "--depth", 1, "--set", "feedforward=8")
    )
    rng = np.random.default_rng(0)
    videos = [
        features(
            i,
            label=i % 2,
            rng=rng,
            split="train" if i < 16 else "val",
            source=f"s{i}",
            tokens=long if i in (2, 18) else 1,
            signal=6.0,
            dims=dims,
        )
        for i in range(32)
    ]
    said = train(write_cache(tmp_path / "c.zarr", videos, dims=dims), "--model", model, *extra)
    assert "head " in said
    head = TrainedHead.load(tmp_path / "head")
    with open_cache(tmp_path / "c.zarr") as cache:
        predictions = head.predict(cache)
        labels = cache.videos.label
        alone = [
            head.predict({name: cache.tokens(name, i) for name in dims}).probabilities[0] for i in (17, 18)
        ]
    np.testing.assert_allclose(predictions.probabilities[[17, 18]], alone, rtol=1e-4)
    assert np.isfinite(predictions.probabilities).all()
    found = auroc(labels, predictions.probabilities)
    assert found is not None
    assert found > 0.8


def test_a_missing_stream(train: Train, toy_path: Path) -> None:
    said = train(toy_path, "--streams", "clip,audio")
    assert said.startswith("2 error: ")
    documented(said, "holds no stream audio; it holds clip, slowfast")


def test_caches_of_other_features(train: Train, toy_path: Path, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other.zarr", toy_videos(4), precision="bf16")
    said = train(toy_path, other)
    assert said.startswith("3 error: ")
    assert "precision: " in said


def test_a_loss_that_stops_being_finite(
    train: Train, toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = HeadLoss.forward

    def forward(self: HeadLoss, logits_B: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        return broken(self, logits_B, labels_B) * float("nan")

    monkeypatch.setattr(HeadLoss, "forward", forward)
    said = train(toy_path)
    assert said.startswith("4 error: ")
    documented(said, "the loss is nan in epoch 1; lower --lr or scale the inputs")
    assert not (tmp_path / "head").exists()
