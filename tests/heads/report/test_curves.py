from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from heads.report import curves as figures_curves
from heads.report import history as figures_training
from heads.report.curves import objective_words, pr_curve_png, roc_curve_png, threshold_curve_png
from heads.report.figures import Provenance
from heads.report.history import history_png, reliability_png
from heads.scoring.bootstrap import Interval
from heads.scoring.evaluate import evaluate
from heads.scoring.thresholds import OBJECTIVES, ThresholdConfig, choose_threshold, with_interval
from heads.training.epochs import EpochRow

RNG = np.random.default_rng(0)
LABELS = (np.arange(60) % 2).astype(np.int8)
SCORES = np.clip(0.5 + 0.2 * (LABELS - 0.5) + RNG.normal(0, 0.15, 60), 0, 1)
GROUPS = [f"g{i // 2}" for i in range(60)]
FROM = Provenance(
    "clip: random (seed 0)", "RANDOM backbone weights (clip: random (seed 0))", "val chose the threshold"
)


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert np.asarray(image.convert("L")).min() < 80
        return image.size


def test_curves_are_drawn_and_always_alike() -> None:
    head = evaluate("head", "val", LABELS, SCORES, threshold=0.5, groups=GROUPS, n_resamples=50)
    floor = evaluate("all-positive", "val", LABELS, np.ones(60), threshold=0.5, groups=GROUPS)
    nothing = evaluate("metadata-only", "val", LABELS, np.zeros(60), threshold=0.5, groups=GROUPS)
    for draw in (pr_curve_png, roc_curve_png):
        png = draw(LABELS, SCORES, head, [floor, nothing], provenance=FROM)
        assert size(png)[0] == 900
        assert draw(LABELS, SCORES, head, [floor, nothing], provenance=FROM) == png
        other = replace(FROM, random_note="")
        assert draw(LABELS, SCORES, head, [floor, nothing], provenance=other) != png


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_threshold_curve_of_every_objective(objective: str) -> None:
    config = ThresholdConfig(objective, beta=2.0, floor=0.8)  # type: ignore[arg-type]
    choice = choose_threshold(LABELS, SCORES, config=config, negative_hours=1.0)
    if objective == "f1":
        choice = with_interval(choice, LABELS, SCORES, groups=GROUPS, n_resamples=50)
    png = threshold_curve_png(
        LABELS,
        SCORES,
        choice,
        config=config,
        part="val",
        label_names=("NonFight", "Fight"),
        provenance=FROM,
    )
    assert size(png) == (1080, 960)


@pytest.mark.slow
def test_scores_at_the_ends_are_drawn() -> None:
    for scores in (np.zeros(60), np.ones(60), LABELS.astype(np.float64)):
        choice = choose_threshold(LABELS, scores)
        threshold_curve_png(
            LABELS,
            scores,
            choice,
            config=ThresholdConfig(),
            part="val",
            label_names=("a", "b"),
            provenance=FROM,
        )
        reliability_png(
            LABELS, scores, scores, temperature=1.0, applied=False, part="val", ece=None, provenance=FROM
        )


def test_reliability_counts_every_video(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = figures_training.png_bytes

    def spy(figure):  # type: ignore[no-untyped-def]
        seen.append(figure)
        return real(figure)

    monkeypatch.setattr(figures_training, "png_bytes", spy)
    size(
        reliability_png(
            LABELS,
            SCORES,
            SCORES**2,
            temperature=0.5,
            applied=True,
            part="test",
            ece=Interval(0.0, 0.1, 9, 9),
            provenance=FROM,
        )
    )
    upper_left, upper_right, lower_left, _ = seen[0].axes
    assert sum(bar.get_height() for bar in lower_left.patches) == 60
    assert "used by the head" in upper_right.get_title()
    assert "used by the head" not in upper_left.get_title()
    assert upper_left.get_xlim() == (-0.02, 1.02)
    assert "60 videos, 30 positive" in seen[0].get_suptitle()


def test_the_threshold_stands_where_it_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(figures_curves, "png_bytes", lambda figure: seen.append(figure) or b"")
    choice = choose_threshold(LABELS, SCORES)
    threshold_curve_png(
        LABELS,
        SCORES,
        choice,
        config=ThresholdConfig(),
        part="val",
        label_names=("NonFight", "Fight"),
        provenance=FROM,
    )
    upper, lower = seen[0].axes
    assert upper.lines[0].get_xdata()[0] == choice.threshold
    assert f"{choice.threshold:.4f}" in upper.get_title()
    assert "on val: 60 videos, 30 positive" in upper.get_title()
    assert [t.get_text() for t in lower.get_yticklabels()] == ["NonFight", "Fight"]
    assert "RANDOM backbone weights" in seen[0].get_supxlabel()
    assert "val chose the threshold" in seen[0].get_supxlabel()


def test_history_of_one_and_of_many_epochs() -> None:
    rows = [
        EpochRow(
            epoch=i,
            lr=1e-3,
            train_loss=1 / i,
            val_loss=1.2 / i,
            threshold=0.5,
            precision=None if i == 1 else 0.5,
            recall=1.0,
            f1=0.6,
            auroc=None if i == 2 else 0.7,
            average_precision=0.7,
            degenerate=False,
            best=True,
            seconds=0.1,
        )
        for i in range(1, 21)
    ]
    for n in (1, 20):
        assert size(history_png(rows[:n], best_epoch=1, provenance=FROM)) == (1260, 930)


def test_objectives_have_words() -> None:
    assert objective_words(ThresholdConfig()) == "F1"
    assert objective_words(ThresholdConfig(grid="coarse")) == "F1, coarse grid"
    assert objective_words(ThresholdConfig("precision-at-recall", floor=0.9)) == "precision at recall >= 0.9"
    words = objective_words(ThresholdConfig("false-alarms-per-hour", max_false_alarms_per_hour=2))
    assert words == "recall at <= 2 false alarms/h"
