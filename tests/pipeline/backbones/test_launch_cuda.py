"""The CUDA path on a stand-in for a device: no frame changes before it is read, nothing is lost, trouble is one sentence."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.errors import DeviceError
from pipeline import run as run_module
from pipeline.backbones import launch
from pipeline.backbones.batching import StreamRunner, TokenKey
from pipeline.backbones.load import BackboneConfig
from pipeline.decoding.pool import PoolSettings
from tests.pipeline import fakes
from tests.pipeline.backbones.test_batching import windows
from tests.pipeline.fake_cuda import CUDA, FakeDevice, fake_cuda
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import contents, run


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    with fake_cuda(monkeypatch) as found:
        yield found


@pytest.fixture
def on_device(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """`extract` runs tiny backbones on the stand-in."""

    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)
    monkeypatch.setattr(BackboneConfig, "torch_device", lambda _: CUDA)
    return device


@pytest.mark.parametrize("slow", [0, 1, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_frames_that_change_once_they_were_read_change_no_token(
    monkeypatch: pytest.MonkeyPatch, slow: int, batch_size: int
) -> None:
    expected = TinyBackbone(PLANS[1], batch_size=1)
    found: dict[TokenKey, NDArray[np.float32]] = {}
    with fake_cuda(monkeypatch, slow=slow) as device:
        runner = StreamRunner(TinyBackbone(PLANS[1], batch_size=batch_size), device=CUDA)
        lent: list[tuple[NDArray[Any], Callable[[], bool]]] = []
        waited = 0
        for index in range(0, 33, 3):
            frames = np.concatenate([windows(1, index + i) for i in range(3)])
            read = runner.add(0, 0, index, frames)
            assert read is not None
            lent.append((frames, read))
            done = [item for item in lent if item[1]()]
            for old, _ in done:
                old[:] = 0
            lent = [item for item in lent if not any(item is other for other in done)]
            waited += len(lent)
            found |= dict(runner.results())
        runner.flush()
        found |= dict(runner.results())
        assert waited or slow < 7 or batch_size < 4, "the stand-in never made anyone wait"
        assert len(device.streams) == 2
    assert set(found) == {(0, 0, index) for index in range(33)}
    for (_, _, index), vector in found.items():
        np.testing.assert_allclose(
            vector, expected.embed(torch.from_numpy(windows(1, index)))[0], rtol=1e-5, atol=1e-6
        )


def test_frames_that_change_too_early_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in can tell: without this the test above could not fail."""
    with fake_cuda(monkeypatch, slow=50):
        runner = StreamRunner(TinyBackbone(PLANS[1], batch_size=2), device=CUDA)
        frames = windows(1, 0)
        runner.add(0, 0, 0, frames)
        frames[:] = 0
        runner.flush()
        ((_, vector),) = runner.results()
    assert not np.allclose(
        vector, TinyBackbone(PLANS[1], batch_size=1).embed(torch.from_numpy(windows(1, 0)))[0]
    )


def test_a_cache_made_on_the_device_is_the_one_made_without(
    tmp_path: Path, on_device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through real workers; one of them dies while its frames may still be read, and its video is decoded again."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    src = tmp_path / "data"
    src.mkdir()
    fakes.write_names(src, "quiet_a.mp4", "decord-crash_b.mp4", "long9_c.mp4", "crash_d.mp4", "long3_e.mp4")
    kept = {"decoder": "decord", "pool": PoolSettings(workers=2, slots=2)}
    report = run(src, tmp_path / "device.zarr", **kept)
    assert report.adds_up and report.stored_now == 4 and report.rejected_now == 1
    assert on_device.ever_registered >= 2 and not on_device.registered, "pinned memory was not given back"
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    monkeypatch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
    run(src, tmp_path / "plain.zarr", **kept)
    assert contents(tmp_path / "device.zarr")["videos"] == contents(tmp_path / "plain.zarr")["videos"]


def test_memory_is_pinned_on_the_device_that_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked on another one, CUDA takes half a gigabyte there, and fails where that one is full."""
    with fake_cuda(monkeypatch) as device:
        unpin = launch.pin_memory(memoryview(bytearray(64)), torch.device("cuda:1"))
        assert unpin is not None and device.ever_registered == 1
        unpin()
    assert not device.registered and device.asked == {"cuda:1"}


@pytest.mark.parametrize("pins", [0, 1])
def test_memory_that_the_driver_does_not_pin_is_said_and_harms_nothing(
    tmp_path: Path, on_device: FakeDevice, monkeypatch: pytest.MonkeyPatch, pins: int
) -> None:
    """Nor is the next work blamed for the refusal, which CUDA keeps until somebody asks."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    on_device.pins = pins
    src = tmp_path / "data"
    src.mkdir()
    fakes.write_names(src, "quiet_a.mp4", "long3_b.mp4")
    printed = io.StringIO()
    report = run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=2), printed=printed)
    assert report.adds_up and report.stored_now == 2
    said = f"note: the driver does not pin the memory of {2 - pins} of 2 decode workers"
    assert said in printed.getvalue()
    assert on_device.ever_registered == pins and not on_device.registered and not on_device.last_error


def test_streams_are_kept_from_flow_to_flow(
    tmp_path: Path, on_device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator keeps memory by stream: new ones a flow would make it grow."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    src = tmp_path / "data"
    src.mkdir()
    for number in range(3):
        fakes.write_names(src, f"quiet_{number}.mp4")
        run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=1))
    assert len(on_device.streams) == 4  # copies and passes of two backbones


def test_weights_that_are_on_their_way_are_waited_for(device: FakeDevice) -> None:
    """They move on the default stream, and the streams of a runner start none of their work behind it."""
    StreamRunner(TinyBackbone(PLANS[1], batch_size=1), device=CUDA)
    assert len(device.streams) == 2
    assert all(torch.cuda.default_stream() in stream.waited_for for stream in device.streams)


def test_a_full_device_is_a_sentence(device: FakeDevice) -> None:
    device.budget_bytes = 100
    with pytest.raises(DeviceError, match="no memory for slowfast in batches of 8: use --batch slowfast=4"):
        StreamRunner(TinyBackbone(PLANS[1], batch_size=8), device=CUDA)


def test_what_was_whole_is_committed_before_the_device_gives_up(
    tmp_path: Path, on_device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    src = tmp_path / "data"
    src.mkdir()
    fakes.write_names(src, *(f"long4_{number}.mp4" for number in range(6)))
    embed = TinyBackbone.embed
    passes = 0

    def full_after_a_while(self: TinyBackbone, frames: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes > 12:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return embed(self, frames)

    monkeypatch.setattr(TinyBackbone, "embed", full_after_a_while)
    with pytest.raises(DeviceError, match="what was whole is committed"):
        run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=1))
    stored = contents(tmp_path / "c.zarr")["videos"]
    assert 0 < len(stored) < 6
    monkeypatch.setattr(TinyBackbone, "embed", embed)
    report = run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=1))
    assert report.adds_up and report.stored_now == 6 - len(stored)


def test_a_device_that_does_not_answer_ends_the_run(
    device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "DEVICE_DEADLINE_SECONDS", 0.05)
    runner = StreamRunner(TinyBackbone(PLANS[1], batch_size=1), device=CUDA)
    device.hangs = True
    runner.add(0, 0, 0, windows(1, 0))
    with pytest.raises(DeviceError, match="gave no answer"):
        runner.flush()


def test_busy_time_is_the_devices_own(device: FakeDevice) -> None:
    """A pass of half a millisecond that is noticed late was half a millisecond."""
    runner = StreamRunner(TinyBackbone(PLANS[1], batch_size=1), device=CUDA)
    for index in range(4):
        runner.add(0, 0, index, windows(1, index))
    time.sleep(0.1)
    runner.flush()
    assert 0.0015 < runner.busy.seconds < 0.05
