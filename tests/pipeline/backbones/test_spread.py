"""Several devices behind one pool: every token once, the same wherever it was made; trouble of one ends the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import DeviceError, InputError
from cache.reader import open_cache
from pipeline import run as run_module
from pipeline.backbones import base, launch
from pipeline.backbones.base import resolve_devices
from pipeline.backbones.batching import StreamRunner
from pipeline.backbones.load import BackboneConfig
from pipeline.backbones.spread import SpreadBackbone, SpreadRunner, make_runner
from pipeline.decoding.pool import PoolSettings
from tests.pipeline import fakes
from tests.pipeline.backbones.test_batching import windows
from tests.pipeline.fake_cuda import CUDA, FakeDevice, fake_cuda
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import GOOD, contents, run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("forked_workers")


def spread(*devices: str, batch_size: int = 3) -> SpreadBackbone:
    return SpreadBackbone({device: TinyBackbone(PLANS[1], batch_size=batch_size) for device in devices})


def fed(runner: Any, counts: tuple[int, ...]) -> dict[Any, Any]:
    """The features of videos with that many windows each, added in pieces of up to five."""
    found: dict[Any, Any] = {}
    for number, count in enumerate(counts):
        for first in range(0, count, 5):
            indices = range(first, min(first + 5, count))
            frames = np.concatenate([windows(1, 100 * number + index) for index in indices])
            read = runner.add(number, 0, first, frames)
            while read is not None and not read():
                found |= dict(runner.results())
            frames[:] = 0
        found |= dict(runner.results())
    runner.flush()
    return found | dict(runner.results())


def test_tokens_have_the_bits_of_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = (7, 1, 13, 4)
    expected = fed(make_runner(TinyBackbone(PLANS[1], batch_size=3), device=CPU), counts)
    assert len(expected) == sum(counts)
    on_cpu = make_runner(spread("cpu:0", "cpu:1", "cpu:2"), device=CPU)
    with fake_cuda(monkeypatch, slow=5):
        on_cuda = make_runner(spread("cuda:0", "cuda:1"), device=CUDA)
        found = fed(on_cuda, counts)
    for runner, got in ((on_cpu, fed(on_cpu, counts)), (on_cuda, found)):
        assert got.keys() == expected.keys()
        assert all(got[key].tobytes() == expected[key].tobytes() for key in got)
        assert isinstance(runner, SpreadRunner)
        shares = runner.n_tokens.values()
        assert sum(shares) == sum(counts) and max(shares) - min(shares) <= 2 * 3  # batches of 3, in turn


def test_a_slow_device_gets_less(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch, slow=0) as device:
        device.hanging.add("cuda:1")
        runner = SpreadRunner(spread("cuda:0", "cuda:1", batch_size=1))
        for index in range(8):
            runner.add(0, 0, index, windows(1, index))
        assert runner.n_tokens == {"cuda:0": 7, "cuda:1": 1}
        device.hanging.clear()
        runner.flush()
        assert len(dict(runner.results())) == 8


def test_frames_are_lent_until_every_device_has_read_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_one_read = False
    answers = iter([lambda: slow_one_read, lambda: True])
    add = StreamRunner.add

    def answered(self: StreamRunner, *given: Any) -> Any:
        add(self, *given)
        return next(answers)

    monkeypatch.setattr(StreamRunner, "add", answered)
    runner = SpreadRunner(spread("cpu:0", "cpu:1", batch_size=1))
    read = runner.add(0, 0, 0, np.concatenate([windows(1, index) for index in range(2)]))
    assert runner.n_tokens == {"cpu:0": 1, "cpu:1": 1}
    assert read is not None and not read()
    slow_one_read = True
    assert read()


def test_what_is_no_set_of_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [str(one) for one in resolve_devices("cpu:0, cpu:1")] == ["cpu:0", "cpu:1"]
    assert resolve_devices("cpu") == (CPU,)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for missing in ("all", "cuda", "cuda:0", "cuda:0,cuda:1"):  # counted, but the driver is too old for torch
        with pytest.raises(InputError, match=r"--device \S+: torch sees no CUDA device here"):
            resolve_devices(missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(base, "device_name", lambda one: "a" if one.type == "cuda" else "cpu")
    assert resolve_devices("all") == (torch.device("cuda:0"), torch.device("cuda:1"))
    for wrong, said in {
        "cuda,cuda:1": "several are written cuda:0,cuda:1",
        "cuda:0,": "several are written",
        "cuda:0,cuda:0": "names a device twice",
        "cuda:0,cuda:2": "--device cuda:2: torch sees 2 CUDA devices",
        "cpu:0,cuda:0": "features would depend on which",
    }.items():
        with pytest.raises(InputError, match=said):
            resolve_devices(wrong)
    monkeypatch.setattr(base, "device_name", lambda one: f"make {one.index}")
    with pytest.raises(InputError, match=r"are make 0, make 1; features would depend"):
        resolve_devices("all")


def test_a_real_model_on_two_devices_makes_the_same_cache(src: Path, tmp_path: Path, tiny_model: str) -> None:
    def extract(name: str, device: str) -> Any:
        backbones = BackboneConfig.of(
            ("clip", "motion"), weights="random", clip_model=tiny_model, device=device, precision="fp32",
            runtime="torch", batch_sizes=(("clip", 2),),
        )  # fmt: skip
        return run(src, tmp_path / name, backbones=backbones)

    extract("one.zarr", "cpu")
    report = extract("two.zarr", "cpu:0,cpu:1")
    assert contents(tmp_path / "two.zarr") == contents(tmp_path / "one.zarr")
    assert report.adds_up and report.stored_now == len(GOOD)
    assert (
        sum(report.device_tokens.values()) == report.tokens["clip"] and min(report.device_tokens.values()) > 0
    )
    assert any(line.startswith("devices    windows run on each: cpu:0 ") for line in report.lines())
    with open_cache(tmp_path / "two.zarr") as two, open_cache(tmp_path / "one.zarr") as one:
        assert two.provenance["devices"] == ["cpu:0", "cpu:1"] and "devices" not in one.provenance
        assert one.specs == two.specs  # a cache of several devices is continued on one


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """`extract` runs tiny backbones on two stand-ins."""

    def load(config: Any, **_: Any) -> Mapping[str, SpreadBackbone]:
        pairs = {device: tiny_backbones(*config.names) for device in ("cuda:0", "cuda:1")}
        return {name: SpreadBackbone({d: each[name] for d, each in pairs.items()}) for name in config.names}

    monkeypatch.setattr(run_module, "load_backbones", load)
    monkeypatch.setattr(BackboneConfig, "torch_devices", lambda _: (CUDA, CUDA))
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    with fake_cuda(monkeypatch) as found:
        yield found


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
def test_trouble_of_one_device_ends_the_run_and_the_same_command_goes_on(
    trouble: str, tmp_path: Path, two_devices: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "data"
    src.mkdir()
    fakes.write_names(src, *(f"long2_{number}.mp4" for number in range(5)))
    embed, passes = TinyBackbone.embed, 0

    def embed_or_not(self: TinyBackbone, frames: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes > 6 and trouble == "fails":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")
        if passes > 6:
            two_devices.hanging.add("cuda:1")
        return embed(self, frames)

    said = r"the device cuda:\d failed \(CUDA error: an illegal memory access was encountered\): see what"
    with monkeypatch.context() as patch:
        patch.setattr(TinyBackbone, "embed", embed_or_not)
        patch.setattr(launch, "DEVICE_DEADLINE_SECONDS", 0.5)
        with pytest.raises(
            DeviceError, match=said if trouble == "fails" else "the device cuda:1 gave no answer"
        ):
            run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=1))
    two_devices.hanging.clear()
    stored = contents(tmp_path / "c.zarr")["videos"]
    assert 0 < len(stored) < 5
    report = run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=1))
    assert report.adds_up and report.stored_now == 5 - len(stored)
    run(src, tmp_path / "whole.zarr", pool=PoolSettings(workers=1))
    assert contents(tmp_path / "c.zarr") == contents(tmp_path / "whole.zarr")
