"""Videos that lack a stream: late, the others speak alone; joined, a learned stand-in is read; nothing becomes a zero unseen."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import onepass
from cache.errors import HeadError, InputError
from cache.reader import Cache, open_cache
from cache.schema import StreamTokens, VideoFeatures
from heads.audit.audit import audit_cache
from heads.audit.features import near_duplicates, pool_stream
from heads.audit.probe import probe_cache
from heads.data.dataset import load_dataset
from heads.data.splits import choose_split
from heads.data.videos import cached_videos
from heads.models.ensemble import HeadEnsemble, build_model
from heads.models.model import HeadModel, ModelConfig
from heads.report.score_file import COLUMNS, NO_STREAM, score_rows, write_scores
from heads.report.show import show_start
from heads.train import train_head
from heads.trained.evaluation import evaluate_head
from heads.trained.head import TrainedHead
from heads.trained.timeline import score_over_time
from heads.training.config import TrainConfig
from tests.heads.synthetic import features, lacking, toy_videos, write_cache

EVERY_MODEL: list[dict[str, Any]] = [
    {"model": "logistic"},
    {"model": "attention-pool"},
    {"model": "attention-pool", "delta": "beside", "join": "late"},
    {"model": "mlp", "pool": "mean-std"},
    {"model": "mlp", "pool": "mean-std", "join": "late"},
    {"model": "transformer", "width": 16},
    {"model": "fusion", "width": 16},
    {"model": "conv", "width": 16},
    {"model": "linear", "lr": 0.03, "epochs": 20},
]


def missing_at_random(share: float, n: int, seed: int = 3) -> set[int]:
    return set(np.flatnonzero(np.random.default_rng(seed).random(n) < share).tolist())


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 videos; 40 % lack slowfast."""
    videos = toy_videos(80, signal=2.0)
    path = tmp_path_factory.mktemp("absent") / "c.zarr"
    return write_cache(path, lacking(videos, "slowfast", missing_at_random(0.4, 80)), optional=["slowfast"])


@pytest.fixture
def partial(without: Path) -> Any:
    with open_cache(without) as cache:
        yield cache


def config(settings: dict[str, Any]) -> TrainConfig:
    brief = {} if settings["model"] == "logistic" else {"epochs": 10, "batch_size": 8, "lr": 6e-3}
    return TrainConfig().updated({**brief, "n_resamples": 0, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        one if n in (0, 2, 5, 8) else pytest.param(one, marks=pytest.mark.slow)
        for n, one in enumerate(EVERY_MODEL)
    ],
)
def test_every_model_learns_scores_and_comes_back(
    settings: dict[str, Any], partial: Cache, tmp_path: Path
) -> None:
    head = train_head(partial, config(settings), cv=2)
    found = head.predict(partial)
    assert np.isfinite(found.probabilities).all() and found.lacking == {"slowfast": 32}
    assert head.info.config.model.absent and [s.optional for s in head.info.streams] == [False, True]
    folds = head.training.cross_validation  # type: ignore[union-attr]
    assert folds is not None and folds.head.metrics.auroc > 0.9  # type: ignore[operator]
    loaded = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(loaded.predict(partial).probabilities, found.probabilities)


@pytest.mark.parametrize("settings", [{"model": "attention-pool"}, {"model": "logistic"}])
def test_val_decides_as_well(settings: dict[str, Any], partial: Cache) -> None:
    head = train_head(partial, config(settings))
    assert head.info.metrics["val"]["auroc"] > 0.85


@pytest.mark.slow
def test_auto_compares_on_it(partial: Cache) -> None:
    head = train_head(partial, cv=3)
    assert np.isfinite(head.predict(partial).probabilities).all()
    found = {row["name"]: row["auroc"] for row in head.info.portfolio}
    assert all(
        auroc > 0.9 for name, auroc in found.items() if name != "logistic on std"
    )  # the class moves the mean


def test_late_what_is_there_loses_nothing(tmp_path: Path) -> None:
    """The label is in clip alone; slowfast says nothing and is missing in 40 %: who has both is scored as if all had."""
    videos = toy_videos(80, signal=1.0)
    where = missing_at_random(0.4, 80)
    whole = write_cache(tmp_path / "whole.zarr", videos, optional=["slowfast"])
    part = write_cache(tmp_path / "part.zarr", lacking(videos, "slowfast", where), optional=["slowfast"])
    logits = {}
    for path in (whole, part):
        with open_cache(path) as cache:
            data = load_dataset(cache, separate_streams=True)
            head = train_head(cache, config({"model": "logistic", "streams": "clip,slowfast"}), cv=3)
            logits[path] = head.logits(data.tokens, np.arange(len(data)))
            own = head.model
            assert isinstance(own, HeadEnsemble)
            clip = own.heads()[0].classifier.weight.detach().clone()  # type: ignore[union-attr]
            logits[path.with_suffix(".clip")] = clip.numpy()
    np.testing.assert_array_equal(logits[whole.with_suffix(".clip")], logits[part.with_suffix(".clip")])
    assert np.isfinite(logits[part]).all()


def test_late_the_mean_is_over_the_streams_that_are_there() -> None:
    torch.manual_seed(0)
    late = ModelConfig(architecture="attention-pool", join="late", absent=True)
    model = build_model(late, (5, 3)).eval()
    assert isinstance(model, HeadEnsemble)
    values = [torch.randn(4, 6, 5), torch.randn(4, 2, 3)]
    values[1][2] = torch.nan
    masks = [torch.ones(4, 6, dtype=torch.bool), torch.ones(4, 2, dtype=torch.bool)]
    times = [mask.float() for mask in masks]
    each = model.member_logits(values, masks, times)
    found = model(values, masks, times)
    torch.testing.assert_close(found[[0, 1, 3]], each.mean(dim=0)[[0, 1, 3]])
    torch.testing.assert_close(found[2], each[0, 2])
    values[0][2] = torch.nan
    assert model(values, masks, times)[2].isnan()


@pytest.mark.parametrize("settings", EVERY_MODEL[1:])
def test_a_stand_in_is_learnt_only_where_something_is_missing(settings: dict[str, Any]) -> None:
    model_config = TrainConfig().updated(settings).model
    plain = build_model(model_config, (5, 3)).state_dict()
    assert not any("stand_ins" in name for name in plain)
    absent = build_model(TrainConfig().updated({**settings, "model.absent": True}).model, (5, 3)).state_dict()
    late = model_config.joining == "late"
    assert any("stand_ins" in name for name in absent) is not late
    assert {name for name in absent if "stand_ins" not in name} == set(plain)


def test_a_video_without_any_stream_is_named_and_never_scored(tmp_path: Path) -> None:
    videos = lacking(toy_videos(60), "slowfast", {3, 4, 5})
    path = write_cache(tmp_path / "c.zarr", videos, optional=["slowfast"])
    with open_cache(path) as cache:
        data = load_dataset(
            cache, separate_streams=False, config=config({"model": "linear", "streams": "slowfast"}).data
        )
        assert data.n_without == 3 and int((data.labels == -1).sum()) == 3 and data.absent == {"slowfast": 3}
        head = train_head(cache, config({"model": "logistic", "streams": "slowfast"}), cv=3)
        notes = evaluate_head(head, cache, seen=True).notes
        assert "3 of 60 videos have none of the streams and are left out" in notes
        assert not any("no label" in note for note in notes)
        found = head.predict(cache)
        assert int(np.isnan(found.probabilities).sum()) == 3 and found.decisions.count("") == 3
        rows = score_rows(found, cache, path="c.zarr")
        assert [row["reject_reason"] for row in rows].count(NO_STREAM) == 3
        write_scores(tmp_path / "s.csv", rows)
    with (tmp_path / "s.csv").open() as file:
        written = [row for row in csv.DictReader(file) if row["reject_reason"]]
    assert [(row["probability"], row["decision"]) for row in written] == [("", "")] * 3
    assert set(written[0]) == set(COLUMNS)


def test_a_head_of_whole_videos_does_not_score_others(partial: Cache, tmp_path: Path) -> None:
    whole = write_cache(tmp_path / "whole.zarr", toy_videos(60))
    with open_cache(whole) as cache:
        head = train_head(cache, config({"model": "linear"}))
    with pytest.raises(HeadError, match="32 of 80 videos in .* lack stream slowfast, which was in all"):
        head.predict(partial)


def test_streams_are_not_joined_on_a_grid_that_is_missing(partial: Cache) -> None:
    data = load_dataset(partial, separate_streams=False)
    assert data.grid == "clip"  # slowfast where it is everywhere
    with pytest.raises(InputError, match="grid of slowfast, which 32 videos lack: give --grid clip"):
        train_head(partial, config({"model": "linear", "data.grid": "slowfast"}))


def test_reading_from_disk_gives_the_same(partial: Cache) -> None:
    for separate in (True, False):
        held = load_dataset(partial, separate_streams=separate).tokens
        read = load_dataset(partial, separate_streams=separate, memory_bytes=0).tokens
        videos = torch.tensor([5, 70, 2, 33])
        assert torch.equal(held.lengths, read.lengths)
        for one, other in zip(held.batch(videos), read.batch(videos), strict=True):
            torch.testing.assert_close(one.values, other.values, equal_nan=True)
            assert torch.equal(one.mask, other.mask)


def test_a_stream_with_one_class_is_an_error(tmp_path: Path) -> None:
    videos = toy_videos(60)
    fights = {place for place, video in enumerate(videos) if video.row.label == 1}
    path = write_cache(tmp_path / "c.zarr", lacking(videos, "slowfast", fights), optional=["slowfast"])
    with (
        open_cache(path) as cache,
        pytest.raises(
            HeadError, match="stream slowfast is there in .* which are not of both classes; leave it out"
        ),
    ):
        train_head(cache, config({"model": "logistic"}), cv=3)


def test_audit_finds_what_missing_tells(tmp_path: Path, partial: Cache) -> None:
    fair = audit_cache(partial, n_resamples=200)
    assert fair.missing and not [f for f in fair.findings if f.kind == "missing-stream"]
    videos = toy_videos(80)
    told = {p for p, video in enumerate(videos) if video.row.label == 1 and p % 8 < 7}
    path = write_cache(tmp_path / "c.zarr", lacking(videos, "slowfast", told), optional=["slowfast"])
    with open_cache(path) as cache:
        (finding,) = [f for f in audit_cache(cache, n_resamples=200).leaks if f.kind == "missing-stream"]
    assert finding.count == 2 and "which streams a video lacks tells its label" in finding.message


def test_probe_and_timelines_end_well(partial: Cache) -> None:
    report = probe_cache(partial, n_resamples=50)
    assert all(np.isfinite(row.pooled) for row in report.rows)
    head = train_head(partial, config({"model": "attention-pool", "join": "late"}), cv=3)
    found = list(score_over_time(head, partial))
    assert len(found) == len(partial) and all(np.isfinite(one.scores).all() for one in found)


@pytest.mark.parametrize("architecture", ["attention-pool", "fusion"])
def test_stream_dropout_takes_one_stream_and_never_the_last(architecture: Any) -> None:
    torch.manual_seed(0)
    model_config = ModelConfig(architecture=architecture, absent=True, stream_dropout=0.5, dropout=0.0)
    model = build_model(model_config, (5, 3))
    assert isinstance(model, HeadModel)
    whole = [torch.randn(400, 2, 5), torch.randn(400, 2, 3)]
    whole[1][:100] = torch.nan
    scaled = whole if architecture == "fusion" else [torch.cat(whole, dim=2)]
    dropped = model.train()._dropping_streams(scaled)
    one, other = dropped if len(dropped) == 2 else torch.split(dropped[0], [5, 3], dim=2)
    gone = torch.stack([one.isnan().all(dim=(1, 2)), other.isnan().all(dim=(1, 2))])
    assert torch.equal(gone.any(dim=0)[:100], torch.ones(100, dtype=torch.bool)) and not gone[0, :100].any()
    shares = gone[:, 100:].float().mean(dim=1)
    assert ((shares - 0.25).abs() < 0.08).all() and not gone.all(dim=0).any()
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(model.eval()._dropping_streams(scaled), scaled, strict=True)
    )


def test_stream_dropout_is_set_by_a_flag_and_held_to_its_range() -> None:
    assert TrainConfig().updated({"stream_dropout": 0.3}).model.stream_dropout == 0.3
    with pytest.raises(InputError, match=r"stream_dropout must be in \[0, 1\), got 1.0"):
        TrainConfig().updated({"stream_dropout": 1.0})


MEDIA = {"pictures": 10, "sound": 6, "words": 8}


def mixture(n: int, *, signal: float = 6.0, missing: float = 0.2) -> list[VideoFeatures]:
    """What makes a video positive is in one of three streams only, in each equally often; the others are missing at random."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(n):
        label = (index // 2) % 2
        video = features(index, label=label, rng=rng, signal=0.0, dims=MEDIA)
        where = list(MEDIA)[int(rng.integers(3))]
        gone = [name for name in MEDIA if name != where and rng.random() < missing]
        tokens = {}
        for name, held in video.tokens.items():
            values = held.values.astype(np.float32)
            values[:, 0] += signal * label * (name == where)
            if name not in gone:
                tokens[name] = StreamTokens(values.astype(np.float16), held.spans)
        made.append(VideoFeatures(video.row, tokens, dict.fromkeys(gone, "not recorded")))
    return made


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixture") / "c.zarr"
    return write_cache(path, mixture(240), dims=MEDIA, optional=list(MEDIA))


def out_of_fold_auroc(path: Path, settings: dict[str, Any]) -> float:
    with open_cache(path) as cache:
        head = train_head(cache, TrainConfig().updated({"n_resamples": 0, **settings}), cv=3)
    found = head.training.cross_validation.head.metrics.auroc  # type: ignore[union-attr]
    assert found is not None
    return found


@pytest.mark.parametrize("stream", MEDIA)
def test_no_stream_alone_tells_the_class_of_a_mixture(stream: str, mixed: Path) -> None:
    assert out_of_fold_auroc(mixed, {"model": "logistic", "streams": stream}) < 0.8


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "logistic"},
        pytest.param({"model": "fusion", "width": 32, "epochs": 25, "lr": 2e-3}, marks=pytest.mark.slow),
    ],
)
def test_together_they_tell_it(settings: dict[str, Any], mixed: Path) -> None:
    assert out_of_fold_auroc(mixed, settings) >= 0.95


@pytest.mark.parametrize("there", [0, 1])
def test_a_stream_that_is_nearly_nowhere_is_named(there: int, tmp_path: Path) -> None:
    path = write_cache(
        tmp_path / "c.zarr", lacking(toy_videos(60), "slowfast", range(there, 60)), optional=["slowfast"]
    )
    with open_cache(path) as cache:
        with pytest.raises(HeadError, match=f"stream slowfast is there in {there} of .* leave it out with"):
            train_head(cache)
        report = probe_cache(cache, n_resamples=20)
        assert {row.inputs for row in report.rows} == {"clip", "metadata"}
        assert any("stream slowfast is there in" in note and "left out" in note for note in report.notes)
        assert train_head(cache, config({"model": "logistic", "streams": "clip"}), cv=2).predict(cache)


def test_what_a_head_has_never_seen_absent_is_refused_everywhere(partial: Cache, tmp_path: Path) -> None:
    whole = write_cache(tmp_path / "whole.zarr", toy_videos(60))
    with open_cache(whole) as cache:
        head = train_head(cache, config({"model": "linear"}))
    for use in (head.predict, head.require_fits, lambda c: list(score_over_time(head, c))):
        with pytest.raises(HeadError, match="32 of 80 videos in .* lack stream slowfast"):
            use(partial)


def test_no_timeline_of_a_video_without_streams(tmp_path: Path) -> None:
    videos = lacking(lacking(toy_videos(60), "slowfast", {3, 4, 5, 9}), "clip", {3, 4, 5})
    path = write_cache(tmp_path / "c.zarr", videos, optional=["clip", "slowfast"])
    with open_cache(path) as cache:
        head = train_head(cache, config({"model": "attention-pool", "join": "late"}), cv=2)
        found = list(score_over_time(head, cache))
        assert len(found) == 57 and all(np.isfinite(one.scores).all() for one in found)
        assert int(np.isnan(head.predict(cache).probabilities).sum()) == 3
        own = audit_cache(cache, n_resamples=20)
        assert not [f for f in own.findings if f.kind in ("repeated-features", "near-duplicate")]


def test_absent_streams_are_like_nothing(tmp_path: Path) -> None:
    """Videos that lack the same stream are no more alike for it: cosines are means over what both have."""
    videos = toy_videos(80, dims={"clip": 12, "slowfast": 8})
    which = missing_at_random(0.4, 80)
    near = {}
    for name, made in (("whole", videos), ("part", lacking(videos, "slowfast", which))):
        with open_cache(write_cache(tmp_path / f"{name}.zarr", made, optional=["slowfast"])) as cache:
            order = np.arange(80)
            streams = [pool_stream(cache, stream, order) for stream in ("clip", "slowfast")]
            near[name] = near_duplicates(streams, [str(n) for n in range(80)], threshold=0.2)
    whole, part = near["whole"], near["part"]
    assert whole is not None and part is not None
    with open_cache(tmp_path / "whole.zarr") as cache:
        clip = near_duplicates(
            [pool_stream(cache, "clip", np.arange(80))], [str(n) for n in range(80)], threshold=0.2
        )
    assert clip is not None
    alone = {(a, b): cosine for a, b, cosine in clip.pairs}
    for a, b, cosine in part.pairs:
        if a in which or b in which:
            assert cosine == pytest.approx(alone[a, b], abs=1e-5)


def test_a_video_in_python_may_leave_an_optional_stream_out(partial: Cache) -> None:
    head = train_head(partial, config({"model": "attention-pool", "join": "late"}), cv=2)
    expected = head.predict(partial).probabilities
    videos = []
    for index in range(len(partial)):
        held = {name: partial.tokens(name, index) for name in partial.streams}
        videos.append({name: tokens for name, tokens in held.items() if len(tokens.values)})
    assert sum(len(video) == 1 for video in videos) == 32
    np.testing.assert_allclose(head.predict(videos).probabilities, expected, atol=1e-6)


def test_an_estimator_says_that_it_reads_whole_videos(partial: Cache) -> None:
    with pytest.raises(InputError, match="32 of 80 labelled videos in .* lack stream slowfast; an estimator"):
        cached_videos(partial)


def test_what_lacks_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = lacking(lacking(toy_videos(60), "slowfast", range(10)), "clip", {3, 4})
    path = write_cache(tmp_path / "c.zarr", videos, optional=["clip", "slowfast"])
    with open_cache(path) as cache:
        data = load_dataset(cache, separate_streams=True)
        split = choose_split(
            data.labels, data.splits, data.groups, val_share=0.2, seed=0, n_without=data.n_without
        )
        console = Console(width=200)
        show_start(console, data, split, TrainConfig(), caches=[path])
    said = capsys.readouterr().out
    assert "lacking   clip 2, slowfast 10 of 60 videos" in said
    assert said.count("2 of 60 videos have none of the streams and are left out") == 1


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    "arguments",
    [
        ["train-head", "--model", "logistic", "--no-cv"],
        ["train-head", "--model", "logistic", "--cv", "2"],
        ["ablate", "--set", "model=logistic", "--seeds", "1"],
        ["ablate", "--set", "model=logistic", "--seeds", "1", "--cv", "2"],
    ],
)
def test_videos_without_the_stream_are_not_said_to_lack_a_label(
    arguments: list[str], without: Path, tmp_path: Path
) -> None:
    command = [arguments[0], "--features", str(without), "--out", str(tmp_path / "o"), *arguments[1:]]
    streams = ["--set", "streams=slowfast"] if arguments[0] == "ablate" else ["--streams", "slowfast"]
    result = CliRunner().invoke(onepass.app, [*command, *streams])
    assert result.exit_code == 0, result.output
    assert "have no label" not in result.output
    assert "32 of 80 videos have none of the streams and are left out" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("settings", [EVERY_MODEL[0], EVERY_MODEL[2], EVERY_MODEL[6]])
def test_as_an_onnx_graph_it_reads_nan_as_absent(
    settings: dict[str, Any], partial: Cache, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from heads.trained.export import export_onnx

    head = train_head(partial, config(settings))
    export_onnx(head, tmp_path / "h.onnx")
    data = load_dataset(partial, separate_streams=head.info.config.model.separate_streams)
    batch = data.tokens.batch(torch.arange(len(data)))
    session = onnxruntime.InferenceSession(str(tmp_path / "h.onnx"))
    names = [value.name for value in session.get_inputs()]
    given = {}
    for name in names:
        stream, _, part = name.rpartition("_")
        place = [s.name for s in data.streams].index(stream) if stream else 0
        own = batch[place]
        given[name] = {"tokens": own.values, "mask": own.mask, "times": own.times}[part].numpy()
    (_, logit) = session.run(None, given)
    np.testing.assert_allclose(logit, head.logits(data.tokens, np.arange(len(data))), atol=1e-4)
