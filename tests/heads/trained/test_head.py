from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.errors import FingerprintMismatch, HeadError
from cache.reader import Cache, open_cache
from heads.train import train_head
from heads.trained.head import HeadInfo, TrainedHead
from heads.training.config import TrainConfig
from tests.heads.synthetic import DIMS, toy_videos, write_cache


@pytest.fixture(scope="module", params=["attention-pool", "fusion"])
def head(request: pytest.FixtureRequest, toy_path: Path) -> Iterator[TrainedHead]:
    config = TrainConfig().updated({"model": request.param, "epochs": 2, "batch_size": 8, "n_resamples": 20})
    with open_cache(toy_path) as cache:
        yield train_head(cache, config)


def test_a_cache_scores_as_training_did(head: TrainedHead, toy_cache: Cache) -> None:
    found = head.predict(toy_cache)
    assert head.training is not None
    reported = dict(zip(head.training.predictions.ids, head.training.predictions.probabilities, strict=True))
    for video, probability in zip(found.ids, found.probabilities, strict=True):
        assert probability == pytest.approx(reported[video], abs=1e-5)
    assert list(found.ids) == [str(i) for i in toy_cache.videos.id]
    assert found.threshold == head.info.threshold.threshold
    assert found.random_weights
    assert "random (seed 0)" in repr(found)
    assert set(found.decisions) <= {"Fight", "NonFight"}
    assert (np.array(found.decisions) == "Fight").tolist() == found.flagged.tolist()


def test_tokens_score_as_the_cache_does(head: TrainedHead, toy_cache: Cache) -> None:
    whole = head.predict(toy_cache)
    videos = [{name: toy_cache.tokens(name, i) for name in DIMS} for i in (3, 11)]
    np.testing.assert_allclose(head.predict(videos).probabilities, whole.probabilities[[3, 11]], atol=1e-5)
    np.testing.assert_allclose(head.predict(videos[1]).probabilities, whole.probabilities[[11]], atol=1e-5)
    assert len(head.predict([])) == 0


def test_other_features_are_refused(head: TrainedHead, tmp_path: Path) -> None:
    videos = toy_videos(4)
    other = write_cache(tmp_path / "bf16.zarr", videos, precision="bf16")
    with open_cache(other) as cache, pytest.raises(FingerprintMismatch, match="precision"):
        head.predict(cache)
    with open_cache(write_cache(tmp_path / "new.zarr", videos, libraries={"torch": "3"})) as cache:
        with pytest.raises(FingerprintMismatch, match="libraries"):
            head.predict(cache)
        assert len(head.predict(cache, ignore_libraries=True)) == 4
    one = {"clip": DIMS["clip"]}
    only_clip = write_cache(tmp_path / "clip.zarr", toy_videos(4, dims=one), dims=one)
    with open_cache(only_clip) as cache, pytest.raises(HeadError, match="reads stream slowfast"):
        head.predict(cache)


def test_tokens_that_do_not_fit_are_refused(head: TrainedHead, toy_cache: Cache) -> None:
    good = {name: toy_cache.tokens(name, 0) for name in DIMS}
    with pytest.raises(HeadError, match="reads stream slowfast"):
        head.predict({"clip": good["clip"]})
    with pytest.raises(HeadError, match="wide"):
        head.predict({"clip": good["slowfast"], "slowfast": good["clip"]})
    with pytest.raises(HeadError, match="needs StreamTokens"):
        head.predict({name: tokens.values for name, tokens in good.items()})


def test_plain_arrays_do_for_one_stream(toy_cache: Cache, quick: TrainConfig) -> None:
    head = train_head(toy_cache, quick.updated({"streams": "clip", "epochs": 1}))
    tokens = toy_cache.tokens("clip", 0)
    plain = head.predict({"clip": tokens.values}).probabilities
    np.testing.assert_allclose(plain, head.predict({"clip": tokens}).probabilities, atol=1e-6)
    with pytest.raises(HeadError, match="T > 0"):
        head.predict({"clip": np.zeros((0, DIMS["clip"]))})


def test_info_survives_json(head: TrainedHead) -> None:
    values = json.loads(json.dumps(head.info.as_dict(), allow_nan=False))
    again = HeadInfo.from_dict(values)
    assert again.as_dict() == head.info.as_dict()
    assert again.threshold == head.info.threshold
    assert values["random_weights"] is True
    with pytest.raises(HeadError, match="format"):
        HeadInfo.from_dict({**values, "format": 99})
    with pytest.raises(HeadError, match="streams is missing"):
        HeadInfo.from_dict({k: v for k, v in values.items() if k != "streams"})


def test_repr_names_threshold_and_weights(head: TrainedHead) -> None:
    assert "threshold" in repr(head)
    assert "random (seed 0)" in repr(head)
