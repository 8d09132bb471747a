from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import HeadError, InputError, LabelError
from cache.labels.join import LabelJoin, LabelNames, VideoLabel
from cache.reader import Cache, open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures
from cache.writer import CacheWriter
from heads.data.dataset import (
    DataConfig,
    StreamedTokens,
    StreamInput,
    load_dataset,
    random_note,
    weights_line,
)
from heads.data.tokens import MemoryTokens
from heads.scoring.floors import token_statistics
from tests.heads.synthetic import DIMS, toy_videos, write_cache


def test_rows_are_sorted_by_id_with_their_tokens(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=True)
    assert list(data.ids) == sorted(data.ids)
    assert weights_line(data.streams) == "clip: random (seed 0), slowfast: random (seed 0)"
    assert data.stream_dims == tuple(DIMS.values())
    stored = {str(video): i for i, video in enumerate(toy_cache.videos.id)}
    for row in (0, 7, len(data) - 1):
        batches = data.tokens.batch(torch.tensor([row]))
        for stream, batch in zip(DIMS, batches, strict=True):
            expected = toy_cache.tokens(stream, stored[data.ids[row]])
            np.testing.assert_array_equal(batch.values[0].numpy(), expected.values.astype(np.float32))
            np.testing.assert_allclose(batch.times[0].numpy(), expected.spans.mean(axis=1))


def test_random_streams_are_told_from_the_others() -> None:
    random = {"weights": {"tag": "random", "seed": 0}}
    clip, image, motion = (
        StreamInput("clip", 4, random),
        StreamInput("image", 4, {"weights": {"tag": "efficientnet-lite0"}}),
        StreamInput("motion", 4, {"weights": {"tag": "none"}}),
    )
    assert random_note((image, motion)) == ""
    assert random_note((clip,)) == (
        "RANDOM backbone weights (clip: random (seed 0)): these scores test the pipeline, they say nothing about violence"
    )
    assert random_note((clip, image, motion)) == (
        "RANDOM backbone weights of clip: what they add to these scores says nothing about violence; not random: "
        "image (efficientnet-lite0), motion (none)"
    )


def test_order_of_the_store_does_not_matter(tmp_path: Path) -> None:
    videos = toy_videos(20)
    loaded = []
    for name, order in (("a", videos), ("b", videos[::-1])):
        with open_cache(write_cache(tmp_path / f"{name}.zarr", order)) as cache:
            loaded.append(load_dataset(cache, separate_streams=False))
    a, b = loaded
    assert a.ids == b.ids
    assert a.cache_digest == b.cache_digest
    everything = torch.arange(20)
    torch.testing.assert_close(
        a.tokens.batch(everything)[0].values, b.tokens.batch(everything)[0].values, rtol=0, atol=0
    )


@pytest.mark.parametrize("separate", [True, False])
def test_streamed_tokens_equal_those_in_memory(toy_cache: Cache, separate: bool) -> None:
    memory = load_dataset(toy_cache, separate_streams=separate).tokens
    streamed = load_dataset(toy_cache, separate_streams=separate, memory_bytes=1000).tokens
    assert isinstance(memory, MemoryTokens)
    assert isinstance(streamed, StreamedTokens)
    assert streamed.dims == memory.dims
    assert streamed.lengths.tolist() == memory.lengths.tolist()
    videos = torch.tensor([5, 2, 40, 2])
    for a, b in zip(memory.batch(videos), streamed.batch(videos), strict=True):
        torch.testing.assert_close(a.values, b.values)
        assert a.mask.equal(b.mask)
        torch.testing.assert_close(a.times, b.times)


def test_streams_are_chosen_by_name(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=False, config=DataConfig(streams=("clip",)))
    assert data.tokens.dims == (DIMS["clip"],)
    assert data.grid == "clip"
    both = load_dataset(
        toy_cache, separate_streams=False, config=DataConfig(streams=("slowfast", "clip"), grid="clip")
    )
    assert both.tokens.dims == (sum(DIMS.values()),)
    assert int(both.tokens.lengths.sum()) == toy_cache.streams["clip"].n_tokens
    with pytest.raises(InputError, match="holds no stream audio; it holds clip, slowfast"):
        load_dataset(toy_cache, separate_streams=False, config=DataConfig(streams=("audio",)))
    with pytest.raises(InputError, match="grid 'audio'"):
        load_dataset(toy_cache, separate_streams=False, config=DataConfig(grid="audio"))


def test_labels_can_be_replaced(toy_cache: Cache) -> None:
    ids = [str(i) for i in toy_cache.videos.id]
    join = LabelJoin(
        names=LabelNames(negative="safe", positive="harmful"),
        matched={
            ids[0]: VideoLabel(1, "harmful", split="test", source="tape"),
            ids[1]: VideoLabel(0, "safe"),
        },
        unmatched_ids=tuple(ids[2:]),
        unmatched_keys=(),
    )
    data = load_dataset(toy_cache, separate_streams=True, labels=join)
    assert data.label_names == ("safe", "harmful")
    first, second = data.ids.index(ids[0]), data.ids.index(ids[1])
    assert (data.labels[first], data.splits[first], data.groups[first]) == (1, "test", "tape")
    assert (data.labels[second], data.splits[second], data.groups[second]) == (0, "train", "source0")
    assert (data.labels == -1).sum() == len(ids) - 2


def test_a_class_that_is_positive_here_and_negative_there_is_an_error(tmp_path: Path) -> None:
    videos = toy_videos(8)
    odd = next(video for video in videos if video.row.label == 1)
    turned = replace(odd, row=replace(odd.row, label=0, label_name=odd.row.label_name.lower()))
    path = write_cache(tmp_path / "c.zarr", [turned if video is odd else video for video in videos])
    with (
        open_cache(path) as cache,
        pytest.raises(LabelError, match="as negative ones, and calls .* its positive"),
    ):
        load_dataset(cache, separate_streams=True)


def test_an_empty_cache_is_an_error(tmp_path: Path) -> None:
    with (
        open_cache(write_cache(tmp_path / "empty.zarr", [])) as cache,
        pytest.raises(LabelError, match="holds no videos"),
    ):
        load_dataset(cache, separate_streams=True)


def test_data_config_is_checked() -> None:
    assert DataConfig(streams=("b", "a", "b")).streams == ("a", "b")
    for options in ({"streams": ()}, {"streams": ("",)}, {"val_share": 0.0}, {"val_share": 0.6}):
        with pytest.raises(InputError):
            DataConfig(**options)  # type: ignore[arg-type]


def test_hours_of_negative_video(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    rows = np.arange(0, 60, 3)
    expected = sum(data.durations[i] for i in rows if data.labels[i] == 0) / 3600
    assert data.negative_hours(rows) == pytest.approx(expected)
    assert data.negative_hours(np.flatnonzero(data.labels == 1)) is None


def test_values_without_a_square_are_refused(tmp_path: Path) -> None:
    """Statistics of 1e30 are no float32: a head would score NaN, which reads as a video without the stream."""
    spec = StreamSpec("x", 4, "float32", {"stream": "x", "model": "m", "weights": {"tag": "imported"}})
    videos = []
    for n, video in enumerate(toy_videos(20)):
        values = np.random.default_rng(n).standard_normal((3, 4)).astype(np.float32)
        values[0, 0] = -1e30 if n == 7 else 1e15
        spans = np.stack([np.arange(3), np.arange(1, 4)], axis=1).astype(np.float32)
        videos.append(VideoFeatures(video.row, {"x": StreamTokens(values, spans)}))
    for name, some in (("all", videos), ("few", videos[:7])):
        with CacheWriter.open(
            tmp_path / f"{name}.zarr",
            streams=[spec],
            dataset="toy",
            label_names=("NonFight", "Fight"),
            provenance={},
        ) as writer:
            writer.commit(some, [])
    with (
        open_cache(tmp_path / "all.zarr") as cache,
        pytest.raises(
            HeadError, match=r"stream x holds values of up to 1.0e\+30; .* heads read up to 1e\+15: scale"
        ),
    ):
        load_dataset(cache, separate_streams=True)
    with open_cache(tmp_path / "few.zarr") as cache:
        assert np.isfinite(token_statistics(load_dataset(cache, separate_streams=True).tokens)).all()
