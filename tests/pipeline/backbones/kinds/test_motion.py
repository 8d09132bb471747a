"""`motion` through the pipeline: measured in the workers, stored, verified, continued."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.errors import FingerprintMismatch
from cache.fingerprint import is_random, weights_name
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.measured import MeasuredBackbone
from pipeline.decoding import frames, motion
from pipeline.decoding.decode import decode_video
from pipeline.decoding.decoders.base import open_frames
from pipeline.decoding.motion import TOKEN_WIDTH
from pipeline.decoding.plain_motion import plain_motion
from pipeline.verify import StreamVerdict, compare_video, verdicts
from tests.pipeline.backbones.kinds.test_logmel import rewritten
from tests.pipeline.trees import GOOD, contents, make_tree, run
from tests.videos import write_video

SPREAD = motion._spread
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


def _backwards(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return SPREAD(values)[:, ::-1]


FAULTS = {
    "statistics exchanged": (motion, "_spread", _backwards),
    "no camera taken off": (motion, "_median", lambda values: np.zeros((len(values), 1), np.float32)),
    "another floor": (motion, "SMALLEST_FLOW", 2e-4),
    "ranks off by one": (motion, "PERCENTILES", (0.5, 0.9, 0.98)),
    "scaled by picking pixels": (frames, "_shrunk", lambda grey, _: np.ascontiguousarray(grey[::2, ::2])),
    "range not made full": (frames, "STRETCHED", np.arange(256, dtype=np.uint8)),
}


@pytest.mark.parametrize("shape", [(1, 1), (4, 700), (90, 160), (361, 481)])
@pytest.mark.parametrize("limited", [None, False, True])
def test_the_plain_measure_is_the_same_whatever_the_size(
    shape: tuple[int, int], limited: bool | None
) -> None:
    """limited: of luma; None is a picture in colours, of which there may be one alone."""
    rng, plan = np.random.default_rng(0), frames.FramePlan("grey", motion.LONG_SIDE)
    still = limited is None
    pictures = rng.integers(0, 256, (1 if still else 3, *shape, *([3] if still else [])), dtype=np.uint8)
    window = [picture if still else frames.Luma(picture, bool(limited)) for picture in pictures]
    measured = motion.motion_statistics([frames.prepare_frame(picture, plan) for picture in window])
    np.testing.assert_allclose(plain_motion(window), measured, atol=1e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of one video, `data/a.mp4` beside it."""
    folder = tmp_path_factory.mktemp("one")
    write_video(folder / "data" / "a.mp4", seconds=1, width=322, height=182)
    run(folder / "data", folder / "c.zarr", backbones=MOTION, dtype="float32")
    return folder / "c.zarr"


def verdict_on(path: Path, video: Path) -> StreamVerdict:
    with open_cache(path) as cache:
        compared = compare_video(cache, 0, video, load_backbones(MOTION), rng=np.random.default_rng(0))
        (verdict,) = verdicts(cache, list(compared.comparisons))
    assert verdict.n_tokens == 2
    return verdict


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_sees_a_fault_of_the_code_that_measures(
    fault: str, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted where runs measure, and still there when verify looks: the plain side shares none of it."""
    video = one.parent / "data" / "a.mp4"
    monkeypatch.setattr(*FAULTS[fault])
    values: list[NDArray[np.float32]] = []
    with closing(open_frames(video, "pyav")) as source:
        plan = load_backbones(MOTION)["motion"].plan
        decode_video(
            source,
            [plan],
            emit=lambda _, window: values.append(motion.motion_statistics(window)),
            beat=lambda _: None,
        )

    def measured(stored: VideoFeatures) -> VideoFeatures:
        return replace(
            stored, tokens={"motion": StreamTokens(np.stack(values), stored.tokens["motion"].spans)}
        )

    assert verdict_on(one, video).ok
    assert not verdict_on(rewritten(one, tmp_path / "wrong.zarr", measured), video).ok


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


def test_a_stream_that_cannot_be_continued_is_told_before_models_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = make_tree(tmp_path / "data")
    run(src, tmp_path / "a.zarr", backbones=MOTION)

    def load(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("pipeline.backbones.load._load", load)
    for asked, told in (
        ("motion=motion,fps=5", "sampling.fps: 5.0 here, 10.0 there"),
        ("motion=logmel", "kind: "),
        ("motion=timm:test_vit,weights=random", "model: .*test_vit.* here"),
    ):
        with pytest.raises(FingerprintMismatch, match=told):
            run(src, tmp_path / "a.zarr", backbones=BackboneConfig.of((asked,), device="cpu"))
    with pytest.raises(AssertionError, match="a model was loaded"):
        run(src, tmp_path / "a.zarr", backbones=MOTION)
