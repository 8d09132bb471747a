from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cache.errors import LabelError
from cache.reader import Cache, open_cache
from cache.schema import StreamTokens, VideoFeatures
from heads.cli_probe import probe_command
from heads.pairs import pair_score, same_source, within_parts
from heads.probe import ProbeReport, probe_cache
from heads.statistics import (
    MOST_COMPONENTS,
    mean_and_deviation,
    out_of_sample_logits,
    out_of_sample_neighbours,
)
from tests.heads.synthetic import features, write_cache


def told_by_change(n: int = 80, *, split: str = "") -> list[VideoFeatures]:
    """Both classes in every source, equal on average; in slowfast, positives move. clip says nothing."""
    rng = np.random.default_rng(2)
    videos = []
    for i in range(n):
        width = int(rng.choice([320, 640, 1280]))
        source = f"s{i // 4}"
        video = features(
            i, label=i % 2, rng=rng, split=split, source=source, signal=0.0, tokens=6, width=width
        )
        slow = video.tokens["slowfast"]
        scale = 3.0 if i % 2 else 1.0
        moved = StreamTokens((slow.values.astype(np.float32) * scale).astype(np.float16), slow.spans)
        videos.append(replace(video, tokens={**video.tokens, "slowfast": moved}))
    return videos


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ProbeReport:
    path = write_cache(tmp_path_factory.mktemp("probe") / "c.zarr", told_by_change())
    with open_cache(path) as cache:
        return probe_cache(cache, n_resamples=200)


def test_mean_and_deviation_are_plain_ones(toy_cache: Cache) -> None:
    found = mean_and_deviation(toy_cache, "clip")
    for index in (0, 17, 59):
        values = toy_cache.tokens("clip", index).values.astype(np.float64)
        expected = np.concatenate([values.mean(axis=0), values.std(axis=0)])
        np.testing.assert_allclose(found[index], expected, atol=1e-9)


def test_one_token_deviates_by_nothing(tmp_path: Path) -> None:
    dims = {"slowfast": 8}
    videos = [features(i, label=i % 2, rng=np.random.default_rng(i), tokens=1, dims=dims) for i in range(4)]
    videos = [
        replace(v, tokens={"slowfast": StreamTokens(t.values[:1], t.spans[:1])})
        for v in videos
        for t in v.tokens.values()
    ]
    with open_cache(write_cache(tmp_path / "one.zarr", videos, dims=dims)) as cache:
        found = mean_and_deviation(cache, "slowfast")
    assert (found[:, 8:] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("width", [10, 400])
def test_rotation_changes_no_logit(width: int) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(120) % 2).astype(np.int8)
    columns = rng.normal(size=(120, width)) + labels[:, None] * 0.4
    groups = [str(i // 2) for i in range(120)]
    train, rows = np.arange(90), np.arange(90, 120)
    assert len(train) <= MOST_COMPONENTS
    logits, strength = out_of_sample_logits(columns, labels, groups, train=train, rows=rows)
    mean, deviation = columns[train].mean(axis=0), columns[train].std(axis=0)
    plain = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(
        (columns[train] - mean) / deviation, labels[train]
    )
    np.testing.assert_allclose(logits, plain.decision_function((columns[rows] - mean) / deviation), atol=2e-3)
    shares = out_of_sample_neighbours(columns, labels, train=train, rows=rows)
    assert roc_auc_score(labels[rows], shares) > 0.7


def test_columns_that_never_vary_give_a_constant() -> None:
    labels = (np.arange(40) % 2).astype(np.int8)
    logits, _ = out_of_sample_logits(
        np.ones((40, 3)), labels, [str(i) for i in range(40)], train=np.arange(30), rows=np.arange(30, 40)
    )
    assert np.ptp(logits) == 0


def test_pairs_within_parts_by_hand_and_a_constant_a_fold_is_chance() -> None:
    labels = np.array([1, 0, 1, 0, 1, 1], dtype=np.int8)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.5, 0.5])
    parts = [1, 1, 2, 2, 3, 3]
    groups = list("abcdef")
    once = np.ones((1, 6))
    assert within_parts(labels, scores, parts)(once)[0] == pytest.approx(1 / 2)
    found = pair_score(labels, groups, within_parts(labels, scores, parts), parts, n_resamples=50)
    assert (found.n_pairs, found.n_parts) == (2, 2)
    constant = np.array([0.6, 0.6, 0.4, 0.4, 0.2, 0.2])
    assert within_parts(labels, constant, parts)(once)[0] == 0.5
    assert roc_auc_score(labels, constant) != 0.5
    weights = np.array([[2.0, 1.0, 1.0, 3.0, 1.0, 1.0]])
    assert within_parts(labels, scores, parts)(weights)[0] == pytest.approx(2 / (2 + 3))
    no_pair = pair_score(
        labels[4:], groups[4:], within_parts(labels[4:], scores[4:], [3, 3]), [3, 3], n_resamples=0
    )
    assert no_pair.auroc is None and no_pair.n_pairs == 0


def test_a_source_drawn_twice_counts_twice() -> None:
    labels = np.array([1, 0, 1, 0, 0], dtype=np.int8)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.1])
    statistic = same_source(labels, scores, ["a", "a", "b", "b", "b"])
    assert statistic(np.ones((1, 5)))[0] == pytest.approx(2 / 3)
    assert statistic(np.array([[2.0, 2.0, 1.0, 1.0, 1.0]]))[0] == pytest.approx((2 * 1 + 1) / (2 + 2))


def test_change_over_time_is_found_and_noise_is_not(report: ProbeReport) -> None:
    rows = {(row.inputs, row.model): row for row in report.rows}
    assert set(rows) == {
        (inputs, model)
        for inputs in ("metadata", "clip", "slowfast", "clip+slowfast")
        for model in ("logistic", "k-NN")
    }
    moving = rows["slowfast", "logistic"]
    assert moving.within_folds.auroc is not None and moving.within_folds.auroc > 0.95
    assert moving.same_recording.auroc is not None and moving.same_recording.auroc > 0.95
    assert (moving.same_recording.n_pairs, moving.same_recording.n_parts) == (80, 20)
    assert moving.gains and not rows["clip", "logistic"].gains
    assert (
        rows["clip+slowfast", "logistic"].over == "slowfast" and not rows["clip+slowfast", "logistic"].gains
    )
    assert rows["metadata", "logistic"].over is None
    assert {row.over for row in report.rows if row.inputs == "clip"} <= {"metadata", "chance"}
    assert report.random_weights


def test_without_metadata_chance_is_the_floor_and_the_test_split_is_left_alone(tmp_path: Path) -> None:
    blank = {"width": 0, "height": 0, "fps": 0.0, "duration_seconds": 0.0}
    videos = [replace(v, row=replace(v.row, **blank)) for v in told_by_change()]
    videos += [features(900 + i, label=i % 2, rng=np.random.default_rng(i), split="test") for i in range(8)]
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        found = probe_cache(cache, n_resamples=0)
    assert found.n_videos == 80
    assert "the 8 test videos were not looked at" in found.notes
    assert any(note.startswith("no metadata") for note in found.notes)
    assert {row.over for row in found.rows if "+" not in row.inputs} == {"chance"}
    assert all(row.within_folds.interval is None and row.gain_interval is None for row in found.rows)


def test_too_few_sources_are_said(tmp_path: Path) -> None:
    videos = [features(i, label=i % 2, rng=np.random.default_rng(i), source="one") for i in range(6)]
    with (
        open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache,
        pytest.raises(LabelError, match="2 of each"),
    ):
        probe_cache(cache)


def test_the_command_prints_a_verdict_or_json(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(probe_command)
    path = str(write_cache(tmp_path / "c.zarr", told_by_change(48)))
    said = CliRunner().invoke(app, [path])
    assert said.exit_code == 0, said.output
    for words in (
        "slowfast is worth more than",
        "clip is not shown to be worth more than",
        "same recording: 48 pairs",
        "RANDOM",
    ):
        assert words in said.output
    values = json.loads(CliRunner().invoke(app, [path, "--json"]).output)
    assert len(values["rows"]) == 8 and values["n_videos"] == 48
