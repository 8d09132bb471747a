"""Backbones with random weights, loaded once for the tests of a module."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Precision, cpu_has_bf16
from pipeline.backbones.choice import StreamChoice
from pipeline.backbones.load import BackboneConfig, load_backbones

TINY = "tiny-vit"
"""A vision transformer of two layers for 32 pixels, described in tiny-vit.json."""

Loader = Callable[[str, Precision], Any]


@pytest.fixture(scope="session")
def tiny_model() -> str:
    import open_clip

    open_clip.add_model_config(Path(__file__).with_name(f"{TINY}.json"))
    return TINY


@pytest.fixture(scope="module")
def backbone() -> Iterator[Loader]:
    """`backbone(stream, precision)`: the real model with random weights of seed 0 on torch, loaded once a module."""
    loaded: dict[tuple[str, Precision], Any] = {}

    def load(stream: str, precision: Precision) -> Any:
        if precision == "bf16" and not cpu_has_bf16():
            pytest.skip("this CPU does not multiply bfloat16")
        if (stream, precision) not in loaded:
            config = BackboneConfig.of(
                streams=(stream,),
                clip_weights="random",
                slowfast_weights="random",
                device="cpu",
                precision=precision,
                runtime="torch",
            )
            loaded[stream, precision] = load_backbones(config)[stream]
        return loaded[stream, precision]

    yield load
    loaded.clear()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def own_model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted models do not go to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))
        yield


def clip_choice(model: str = "ViT-B-32", *, weights: str = "openai", tag: str = "") -> StreamChoice:
    return StreamChoice("clip", "open_clip", model, weights=weights, tag=tag)


def slowfast_choice(weights: str = "kinetics400", seed: int = 0) -> StreamChoice:
    return StreamChoice("slowfast", "pytorchvideo", "slowfast_r50", weights=weights, seed=seed)


def moving_picture(count: int, height: int = 120, width: int = 160, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Frames of a textured scene that moves: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    scene = (
        rng.integers(0, 256, (height // 8 + 9, width // 8 + 9, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    )
    return [
        np.ascontiguousarray(scene[n % 64 : n % 64 + height, 2 * n % 60 : 2 * n % 60 + width])
        for n in range(count)
    ]


def prepared(frames: list[NDArray[np.uint8]], backbone: Any) -> torch.Tensor:
    """One window as the decode worker would leave it: [1, T, H, W, C]."""
    from pipeline.decoding.frames import prepare_frame

    return torch.from_numpy(np.stack([prepare_frame(frame, backbone.plan.frames) for frame in frames]))[None]


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def cosine(found: NDArray[Any], expected: NDArray[Any]) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def quietly(make: Callable[[], Any]) -> Any:
    """Call into libraries that warn on import or on random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()
