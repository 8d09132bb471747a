from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from heads.cli.audit import audit_command
from tests.heads.synthetic import toy_videos, write_cache

app = typer.Typer()
app.command()(audit_command)


def test_a_clean_cache_exits_0_and_a_leaking_one_1(tmp_path: Path) -> None:
    videos = toy_videos(80)
    clean = write_cache(tmp_path / "clean.zarr", videos)
    result = CliRunner().invoke(app, [str(clean)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "no leaks found"
    assert "random (seed 0)" in result.output
    assert "RANDOM" in result.output
    assert "cosine" in result.output
    assert "threshold 0.850" in result.output
    copies = [
        replace(v, row=replace(v.row, id=f"val/copy{i}.mp4", split="val", source=f"s{i}"))
        for i, v in enumerate(videos[:7])
    ]
    leaking = write_cache(tmp_path / "leaking.zarr", [*videos, *copies])
    result = CliRunner().invoke(app, [str(leaking)])
    assert result.exit_code == 1
    assert "LEAK       exact-duplicate (7): " in result.output
    assert "and 2 more" in result.output
    assert result.output.splitlines()[-1] == "LEAKS FOUND: exact-duplicate"


def test_json_is_one_object(tmp_path: Path, toy_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\ntrain/NonFight/v0000.mp4,safe\ntrain/Fight/v0002.mp4,harmful\n")
    result = CliRunner().invoke(app, [str(toy_path), "--json", "--labels", str(labels)])
    facts = json.loads(result.stdout)
    assert facts["clean"] is (result.exit_code == 0)
    assert facts["random_weights"] is True
    assert facts["balance"]["train"]["unknown"] == 34
    assert {"kind", "severity", "message", "count", "examples"} == set(facts["findings"][0])
    assert facts["near_duplicates"]["threshold"] == pytest.approx(0.85)
    assert facts["metadata_columns"] == ["width", "height", "fps", "duration_seconds"]
    # how they joined is said beside the object, and before the findings where there is none
    told = "labels: 2 videos matched (1 harmful, 1 safe), 58 videos without a label"
    assert told in result.stderr
    assert told in CliRunner().invoke(app, [str(toy_path), "--labels", str(labels)]).stdout
