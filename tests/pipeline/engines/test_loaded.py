"""Models that a node's process keeps for its next shard, in the precisions of a part that was begun."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.backbones.load import BackboneConfig
from pipeline.config import ExtractConfig
from pipeline.engines import on_ray
from tests.pipeline.tiny import tiny_backbones


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What models were loaded for: precisions of the part."""
    found: list[dict[str, str]] = []

    def load(config: BackboneConfig, *, made: dict[str, str]) -> Any:
        found.append(made)
        backbones = tiny_backbones(*config.names)
        for name, backbone in backbones.items():
            fields = backbone.fingerprint() | {"precision": made.get(name, "bf16")}
            monkeypatch.setattr(backbone, "fingerprint", lambda fields=fields: fields)
        return backbones

    monkeypatch.setattr(on_ray, "load_backbones", load)
    monkeypatch.setattr(on_ray, "_LOADED", [])
    return found


def test_models_are_loaded_again_only_for_another_precision(
    loads: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: dict[str, dict[str, str]] = {"new": {}, "as loaded": {"clip": "bf16"}, "begun": {"clip": "fp32"}}
    fields = {part: {k: {"precision": v} for k, v in made.items()} for part, made in parts.items()}
    monkeypatch.setattr(on_ray, "fingerprints_at", lambda out: fields[out.name])

    def precision(part: str, *streams: str) -> str:
        config = SimpleNamespace(out=Path(part), backbones=BackboneConfig.of(streams or ("clip",)))
        return str(on_ray._loaded(cast(ExtractConfig, config))["clip"].fingerprint()["precision"])

    assert [precision(part) for part in ("new", "as loaded", "new")] == ["bf16"] * 3 and len(loads) == 1
    assert [precision(part) for part in ("begun", "begun")] == ["fp32"] * 2 and len(loads) == 2
    assert precision("new") == "bf16" and len(loads) == 3  # not what a part was begun with
    assert precision("new", "clip", "slowfast") == "bf16" and len(loads) == 4
