"""Converted models that are kept: read again with the same bits, made again where they were damaged, removed when unused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.backbones import converted as module
from pipeline.backbones.converted import UNUSED_SECONDS, cache_folder
from tests.pipeline.backbones.test_engine import engine, frames

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder() / "openvino"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    real = module._convert

    def noted(*given: Any) -> Any:
        found.append(given)
        return real(*given)

    monkeypatch.setattr(module, "_convert", noted)
    return found


def test_a_kept_model_gives_the_same_bits(own_cache: Path, conversions: list[object]) -> None:
    first, second = (engine("openvino")(frames(2)) for _ in range(2))
    assert len(conversions) == 1 and torch.equal(first, second)
    assert sorted(path.suffix for path in own_cache.iterdir()) == [".bin", ".sha256", ".xml"]


@pytest.mark.parametrize("damage", ["zeros", "cut", "no digest", "no text", "no weights", "a folder"])
def test_a_damaged_one_is_made_again(damage: str, own_cache: Path, conversions: list[object]) -> None:
    """Zeros in the place of weights are read without a complaint."""
    expected = engine("openvino")(frames(2))
    (weights,), (digest,) = own_cache.glob("*.bin"), own_cache.glob("*.sha256")
    if damage == "zeros":
        weights.write_bytes(bytes(weights.stat().st_size))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "no text":
        digest.write_bytes(b"\xff\xfe")
    elif damage == "a folder":
        weights.unlink()
        (weights / "in").mkdir(parents=True)
    else:
        (digest if damage == "no digest" else weights).unlink()
    assert torch.equal(engine("openvino")(frames(2)), expected) and len(conversions) == 2
    assert torch.equal(engine("openvino")(frames(2)), expected) and len(conversions) == 2


def test_what_nobody_used_for_a_month_goes(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "tmpkilled").mkdir()
    for name in ("old.xml", "old.bin", "used.xml", "used.bin", "used.sha256", "tmpkilled/model.bin"):
        (own_cache / name).write_bytes(b"1")
    long_ago = time.time() - UNUSED_SECONDS - 60
    for path in (*own_cache.rglob("*"),):
        os.utime(path, (long_ago, long_ago))
    os.utime(own_cache / "used.sha256")
    engine("openvino")
    assert sorted(path.stem for path in own_cache.iterdir()).count("used") == 3
    assert not [path for path in own_cache.iterdir() if path.stem in ("old", "tmpkilled")]


def test_parts_of_a_killed_process_go_after_a_day(own_cache: Path) -> None:
    for name, days in (("tmpold", 1.5), ("tmpnew", 0.5)):
        (own_cache / name).mkdir(parents=True)
        os.utime(own_cache / name, (time.time() - days * 86400,) * 2)
    engine("openvino")
    assert [path.name for path in own_cache.iterdir() if path.is_dir()] == ["tmpnew"]


@pytest.mark.parametrize("error", [RuntimeError("basic_ios::clear: iostream error"), OSError(28, "no space")])
def test_a_full_disk_costs_a_conversion_and_no_more(
    error: Exception, own_cache: Path, conversions: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's own error for it is a RuntimeError."""
    import openvino

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(openvino, "save_model", full)
    assert engine("openvino")(frames(2)).shape == (2, 4) and len(conversions) == 1
    assert not list(own_cache.iterdir())


def test_where_nothing_can_be_kept_it_runs_all_the_same(own_cache: Path, conversions: list[object]) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("a file in the place of the folder")
    assert engine("openvino")(frames(2)).shape == (2, 4) and len(conversions) == 1


def test_converting_a_model_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    telemetry = pytest.importorskip("openvino_telemetry")
    told: list[object] = []
    monkeypatch.setattr(telemetry.Telemetry, "send_event", lambda *given, **_: told.append(given))
    monkeypatch.setattr(telemetry.Telemetry, "start_session", lambda *given, **_: told.append(given))
    own = telemetry.Telemetry
    assert engine("openvino").queue is not None
    assert not told and telemetry.Telemetry is own
