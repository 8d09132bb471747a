"""Counts add up or say that they do not; the JSON holds everything that the terminal shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.schema import REJECT_REASONS
from pipeline.reporting.report import ExtractReport


def make(**fields: Any) -> ExtractReport:
    report = ExtractReport(
        src="RWF-2000", out="cache/v1.zarr", weights={"clip": "openai", "slowfast": "kinetics400"}
    )
    for name, value in fields.items():
        setattr(report, name, value)
    return report


@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5))
def test_every_input_is_counted_once(counts: list[int]) -> None:
    before, now, rejected_before, rejected_now, not_reached = counts
    report = make(
        found=sum(counts),
        stored_before=before,
        stored_now=now,
        rejected_before=rejected_before,
        rejected_now=rejected_now,
        not_reached=not_reached,
    )
    assert report.adds_up
    assert report.stored + report.rejected + report.not_reached == report.found
    assert 0 <= report.reject_share <= 1
    assert any(line.startswith("found") and line.endswith("adds up") for line in report.lines())
    report.found += 1
    assert not report.adds_up
    assert any("DOES NOT ADD UP" in line for line in report.lines())


def test_the_summary_names_what_matters() -> None:
    report = make(
        found=30,
        stored_before=5,
        stored_now=12,
        rejected_now=13,
        rejects={f"{n:02}.mp4": ("empty-file", "the file has 0 bytes") for n in range(13)},
        fallbacks={"a.mp4": "decord: noise"},
        shortened={"b.mp4": "1.00 s of 4.00 s declared"},
        damaged={"c.mp4": "1 errors in 10 frames"},
        duplicates={"d.mp4": "same bytes as c.mp4"},
        replaced=1,
        unchanged=2,
        relabelled=3,
        gone=4,
        worker_restarts=5,
        tokens={"clip": 100, "slowfast": 20},
        video_seconds=60.0,
        seconds=14.0,
        setup_seconds=4.0,
        precision="bf16",
        device="cpu",
    )
    text = "\n".join(report.lines())
    for part in (
        "stored     17 (5 of them before this run)",
        "rejected   13",
        f"13  empty-file: {REJECT_REASONS['empty-file']}",
        "and 3 more: onepass inspect cache/v1.zarr",
        "found      30 = 17 stored + 13 rejected: adds up",
        "other decoder: 1",
        "shorter than declared: 1",
        "damaged but under the limit: 1",
        "same contents as another: 1",
        "1 stored again because the file changed",
        "2 touched files with unchanged contents",
        "3 stored videos given a new label",
        "4 videos in the cache that the source no longer holds (kept)",
        "5 decode workers that had to be replaced",
        "12 videos, 60 s of video, 100 clip, 20 slowfast tokens in 10.0 s (1.20 videos/s)",
        "clip openai, slowfast kinetics400",
    ):
        assert part in text, f"{part!r} is not in\n{text}"


def test_random_weights_are_named_loudly() -> None:
    report = make(weights={"clip": "random (seed 3)", "slowfast": "kinetics400"})
    said = report.lines()[0]
    assert "RANDOM, not pretrained: clip (random (seed 3))" in said and said.endswith(
        "; slowfast kinetics400"
    )


def test_an_interruption_is_part_of_the_sum() -> None:
    text = "\n".join(make(found=10, stored_now=4, not_reached=6).lines())
    assert "found      10 = 4 stored + 0 rejected + 6 not reached: adds up" in text


@pytest.mark.parametrize("found", [0, 3])
def test_a_report_survives_json(found: int, tmp_path: Path) -> None:
    report = make(
        found=found,
        rejected_now=found,
        rejects={
            f"ü{n}.mp4": (reason, 'line\n"quoted"') for n, reason in enumerate(list(REJECT_REASONS)[:found])
        },
        embed_seconds={"clip": 1.5},
    )
    path = tmp_path / "new" / "report.json"
    report.write(path)
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert loaded == json.loads(json.dumps(report.as_dict()))
    assert loaded["found"] == loaded["stored"] + loaded["rejected"] and loaded["adds_up"] is True
    assert sum(loaded["rejects_by_reason"].values()) == len(loaded["rejects"]) == found
    assert set(loaded["rejects_by_reason"]) <= set(REJECT_REASONS)
    assert math.isclose(loaded["reject_share"], 1.0 if found else 0.0)
    assert "ü0.mp4" in loaded["rejects"] or not found
    fields = set(ExtractReport.__dataclass_fields__)
    assert fields <= set(loaded)


def test_everything_skipped_is_named_in_the_json(tmp_path: Path) -> None:
    skipped = tuple((f"note{n}.txt", "not a video or image") for n in range(9))
    report = make()
    report.note_skipped(skipped)
    report.write(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["skipped_files"], told["skipped"]) == (9, [list(item) for item in skipped])


def test_a_path_that_is_no_utf8_is_written_as_an_escape(tmp_path: Path) -> None:
    make(src="d\udcc3").write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_bytes())["src"] == "d\udcc3"
