"""`motion` through the pipeline: measured in the workers, stored, verified, continued."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.fingerprint import is_random, weights_name
from cache.reader import open_cache
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.measured import MeasuredBackbone
from pipeline.decoding.motion import TOKEN_WIDTH
from pipeline.verify import compare_video, verdicts
from tests.pipeline.trees import GOOD, contents, make_tree, run

MOTION = BackboneConfig.of(("motion",), device="cpu")


def test_it_is_extracted_and_equals_the_plain_measure(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    for suffix in (".zarr", ".h5"):
        report = run(src, tmp_path / f"a{suffix}", backbones=MOTION, dtype="float32")
        assert report.stored == len(GOOD) and report.adds_up
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "a.h5")
    with open_cache(tmp_path / "a.zarr") as cache:
        info = cache.streams["motion"]
        assert info.dim == TOKEN_WIDTH and weights_name(info.fingerprint) == "none"
        assert not is_random(info.fingerprint)
        backbones = load_backbones(config_from_fingerprints({"motion": info.fingerprint}, device="cpu"))
        assert isinstance(backbones["motion"], MeasuredBackbone)
        found = []
        for index in range(len(cache)):
            tokens = cache.tokens("motion", index)
            starts = tokens.spans[:, 0]
            np.testing.assert_allclose(
                np.diff(starts)[:-1], 0.5, atol=1e-6
            )  # the last one ends with the video
            path = src / cache.videos.row(index).id
            verified = compare_video(cache, index, path, backbones, rng=np.random.default_rng(0))
            assert not verified.misplaced
            found += verified.comparisons
        (verdict,) = verdicts(cache, found)
        assert verdict.ok and verdict.worst_relative_error == pytest.approx(0.0, abs=1e-6)


def test_what_it_hands_on_is_a_copy() -> None:
    """The runner fills its buffer again before the features are collected."""
    backbone = load_backbones(MOTION)["motion"]
    measured = torch.ones(3, TOKEN_WIDTH)
    found = backbone.embed(measured)
    measured.zero_()
    assert (found == 1).all() and backbone.queue is None


def test_it_is_added_to_a_cache_that_has_other_streams(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    run(
        src,
        tmp_path / "both.zarr",
        backbones=BackboneConfig.of(("motion", "slower=motion,fps=5"), device="cpu"),
    )
    run(src, tmp_path / "grown.zarr", backbones=MOTION)
    both = BackboneConfig.of(("motion", "slower=motion,fps=5"), device="cpu")
    report = run(src, tmp_path / "grown.zarr", backbones=both)
    assert report.added_streams == {"slower": len(GOOD)}
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "both.zarr")
