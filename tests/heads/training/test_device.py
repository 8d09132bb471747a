from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.errors import DeviceError, InputError
from cache.reader import Cache
from heads.models.dropout import Dropout
from heads.models.model import ATTENDING
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.training import batched
from heads.training.config import TrainConfig
from heads.training.device import device_note, resolve_device
from tests.heads.posed_gpu import MixedDevices, PosedTensor, posed_gpu

ATTENTION: list[dict[str, Any]] = [
    {"model": "transformer", "delta": "beside", "pool": "cls", "width": 16, "feedforward": 32},
    {"model": "fusion", "scaling": "none", "width": 16},
]
OTHERS: list[dict[str, Any]] = [
    {"model": "mlp", "pool": "mean-std", "join": "late"},
    {"model": "mlp", "pool": "max", "sampler": "balanced"},
    {"model": "conv", "loss": "focal", "clip_norm": "off"},
    {"model": "linear", "label_smoothing": 0.1, "schedule": "constant"},
    {"model": "attention-pool", "scaling": "l2", "ema_decay": "off"},
    {"model": "attention-pool", "patience": 1},
]


def words(settings: dict[str, Any]) -> str:
    return "-".join(map(str, settings.values()))


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is used where it is asked for."""
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=there: found)
        assert resolve_device("cpu").type == resolve_device("auto").type == "cpu"
        assert (device_note("auto") is not None) is there
        assert device_note("cpu") is device_note("cuda") is None
        if there:
            assert resolve_device("cuda").type == "cuda"
        else:
            with pytest.raises(InputError, match="no CUDA device"):
                resolve_device("cuda")


def trained(cache: Cache, config: TrainConfig, device: Any, **options: Any) -> dict[str, Tensor]:
    head = train_head(cache, config, device=device, **options)
    assert isinstance(head, TrainedHead)
    return head.model.state_dict()


@pytest.mark.parametrize(
    "settings", [*(pytest.param(one, marks=pytest.mark.slow) for one in ATTENTION), *OTHERS], ids=words
)
def test_training_on_a_gpu_keeps_to_its_tensors_and_gives_the_processor_s_head(
    toy_cache: Cache, quick: TrainConfig, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one that is posed, without dropout, whose random numbers are others there."""
    config = quick.updated({"epochs": 2, "n_resamples": 0, "dropout": 0.0, **settings})
    monkeypatch.setattr(Dropout, "forward", lambda _, x: x)
    expected = trained(toy_cache, config, "cpu")
    with posed_gpu(monkeypatch):
        found = trained(toy_cache, config, "cuda")
    assert expected.keys() == found.keys()
    attention = 0.0 if config.model.architecture not in ATTENDING else 5e-3  # by other kernels
    for name, weight in expected.items():
        assert type(found[name]) is Tensor
        torch.testing.assert_close(found[name], weight, rtol=0, atol=attention, msg=name)


@pytest.mark.slow
def test_folds_are_trained_on_a_gpu_with_its_random_numbers(
    toy_cache: Cache, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws there; twice the same, the caller's generators as they were."""
    config = quick.updated({"model": "transformer", "width": 16, "epochs": 2, "n_resamples": 0})
    on_processor = trained(toy_cache, config, "cpu", cv=2)
    with posed_gpu(monkeypatch):
        before = torch.cuda.get_rng_state()
        first, second = (trained(toy_cache, config, "cuda", cv=2) for _ in range(2))
        assert torch.cuda.get_rng_state().equal(before)
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(on_processor[name]) for name in first)


def test_a_tensor_left_on_the_processor_is_seen(
    toy_cache: Cache, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above rest on."""
    real = batched.HeadLoss.forward
    monkeypatch.setattr(
        batched.HeadLoss, "forward", lambda self, logits, labels: real(self, logits, _left_behind(labels))
    )
    with posed_gpu(monkeypatch), pytest.raises(MixedDevices, match="on the processor"):
        trained(toy_cache, quick, "cuda")


def _left_behind(tensor: Tensor) -> Tensor:
    return tensor.plain if isinstance(tensor, PosedTensor) else tensor


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "smaller --batch-size"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "unspecified launch failure"),
        (RuntimeError("CUDA error: no kernel image is available"), "use --device cpu"),
    ],
)
def test_a_device_that_is_full_or_fails_is_a_sentence(
    toy_cache: Cache, quick: TrainConfig, error: RuntimeError, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(batched, "HeadModel", fails)
    with pytest.raises(DeviceError, match=told):
        trained(toy_cache, quick, "cpu")
    monkeypatch.setattr(batched, "HeadModel", lambda *_: (_ for _ in ()).throw(RuntimeError("a slip")))
    with pytest.raises(RuntimeError, match="a slip"):
        trained(toy_cache, quick, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("settings", [*ATTENTION, *OTHERS], ids=words)
def test_a_head_trained_on_a_gpu_scores_like_the_processor_s(
    toy_cache: Cache, quick: TrainConfig, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        assert not os.environ.get("ONEPASS_REQUIRE_CUDA"), "a CUDA device is required and missing"
        pytest.skip("no CUDA device")
    config = quick.updated({"epochs": 2, "n_resamples": 0, "dropout": 0.0, **settings})
    monkeypatch.setattr(Dropout, "forward", lambda _, x: x)
    scores = [
        train_head(toy_cache, config, device=device).predict(toy_cache).scores for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*scores, atol=0.02)
