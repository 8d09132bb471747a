"""The GPU benchmark's steps that a processor can run, so that it works on the day there is a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
STEPS = (
    "environment", "ceilings", "engines", "videos", "nvdec", "convolutions", "load", "parent", "heads", "extraction", "verify",
)  # fmt: skip
"""`speed`, `parity` and the like repeat what these do, for longer."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_steps_run_without_a_device(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks/gpu_day.py"), "--device", "cpu", "--tiny"]
    places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--seconds", "800"]
    done = subprocess.run(
        [*command, *places, "--steps", ",".join(STEPS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/gpu_day.json").read_text(encoding="utf-8"))
    assert set(found) == set(STEPS), done.stdout
    assert not [found[step]["traceback"] for step in STEPS if "failed" in found[step]]
    assert not [step for step in STEPS if "skipped" in found[step]]
    engine = found["engines"]["clip"]["2 eager"]
    assert engine["parity"]["worst_cosine"] > 0.9999 and engine["bits_again"] and engine["a_second"] > 0
    for arrangement in ("graph", "graph beside"):
        ran = found["convolutions"][arrangement]
        assert ran["kinds"] > 20 and ran["bound_ms"] > 0
    assert found["nvdec"]["320x240"]["1 cpu"]["cpu"] > 0
    assert 0 < found["parent"]["stand_in_ms_a_window"] < 1000 and len(found["parent"]["calls"]) == 16
    assert found["heads"]["attention-pool"]["cpu_bits_again"]
    assert found["extraction"]["320x240"]["tokens"] == {"clip": 10, "slowfast": 4}
    assert found["verify"]["misplaced"] == []
    assert min(found["verify"][name]["worst_cosine"] for name in ("clip", "slowfast")) > 0.9999
