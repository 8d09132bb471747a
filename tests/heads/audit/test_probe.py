from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cache.errors import LabelError
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from heads.audit.probe import ProbeReport, neighbour_shares, probe_cache
from heads.cli.probe import probe_command
from heads.data.dataset import DataConfig, load_dataset
from heads.training.config import TrainConfig
from heads.training.cross_validation import cross_validate
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


def test_neighbours_vote_by_their_angle() -> None:
    """By hand: the cosine of standardised columns, votes weighed by 1 / distance; a constant column counts for nothing."""
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 2).astype(np.int8)
    columns = rng.normal(size=(60, 8)) * 10.0 ** np.arange(8) + labels[:, None] * 10.0 ** np.arange(8)
    columns[:, 3] = 5.0
    train, rows = np.arange(45), np.arange(45, 60)
    found = neighbour_shares(columns, labels, train=train, rows=rows)
    varying = np.arange(8) != 3
    scaled = (columns - columns[train].mean(axis=0))[:, varying] / columns[train].std(axis=0)[varying]
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    for row, share in zip(rows, found, strict=True):
        distances = 1 - unit[train] @ unit[row]
        nearest = np.argsort(distances)[:15]
        votes = 1 / distances[nearest]
        assert share == pytest.approx((votes * labels[train][nearest]).sum() / votes.sum())
    assert roc_auc_score(labels[rows], found) > 0.7


def test_a_stream_is_worth_what_a_logistic_head_of_it_scores(tmp_path: Path) -> None:
    """The probe's regression is that of `--model logistic`, on the same folds."""
    with open_cache(write_cache(tmp_path / "c.zarr", told_by_change())) as cache:
        data = load_dataset(cache, separate_streams=True, config=DataConfig(streams=("slowfast",)))
        config = TrainConfig(n_resamples=0).updated({"model": "logistic"})
        found = cross_validate(data, config, k=5)
        rows = probe_cache(cache, n_resamples=0).rows
    (row,) = [row for row in rows if (row.inputs, row.model) == ("slowfast", "logistic")]
    assert row.pooled == pytest.approx(found.head.metrics.auroc, abs=1e-9)


def test_two_sources_of_each_class_are_enough(tmp_path: Path) -> None:
    """A probe chooses nothing on a part held out within the folds, so it needs none."""
    rng = np.random.default_rng(0)
    videos = [features(i, label=i % 2, rng=rng, source=f"s{i}") for i in range(4)]
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        report = probe_cache(cache, n_resamples=0)
    assert (report.n_videos, report.n_folds) == (4, 2)
