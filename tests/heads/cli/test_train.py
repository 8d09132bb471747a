from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cache.errors import InputError
from cache.reader import open_cache
from heads.cli.train import build_config, main, read_device
from heads.trained.head import TrainedHead
from heads.training.config import all_settings
from tests.heads.synthetic import toy_videos, write_cache

ROOT = Path(__file__).parents[3]


def train(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "heads.cli.train", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("without_figures")
def test_trains_from_several_caches_with_a_label_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = toy_videos(48)
    write_cache(tmp_path / "a.zarr", videos[:30])
    write_cache(tmp_path / "b.h5", videos[30:])
    labels = tmp_path / "labels.csv"
    lines = [f"{v.row.id},{'harmful' if v.row.label else 'safe'}" for v in videos]
    labels.write_text("\n".join(["id,label", *lines]))
    words = (
        *("train-head", "--features", tmp_path / "a.zarr", tmp_path / "b.h5", "--out", tmp_path / "head"),
        *("--labels", labels, "--epochs", "2", "--batch-size", "8", "--lr", "1e-3", "--seed", "3"),
        *("--set", "n_resamples=20", "--pos-weight", "1.5", "--model", "mlp"),
    )
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    assert not stopped.value.code, captured.err
    assert "48 videos matched (24 harmful, 24 safe)" in captured.out
    assert "pos_weight 1.5000 (given)" in captured.out
    assert "RANDOM backbone weights" in captured.out
    head = TrainedHead.load(tmp_path / "head")
    assert head.info.label_names == ("safe", "harmful")
    assert head.info.config.seed == 3
    assert head.info.config.loss.pos_weight == 1.5


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(("words", "part"), [(("--no-cv",), "val"), (("--cv", "3"), "out-of-fold")])
def test_given_scores_are_a_floor_and_change_nothing_else(
    words: tuple[str, ...],
    part: str,
    toy_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_cache(toy_path) as cache:
        ids, labels = cache.videos.id.tolist(), np.asarray(cache.videos.label, dtype=np.int64)
    scores = np.clip(0.3 + 0.2 * labels + np.random.default_rng(0).normal(0, 0.2, len(ids)), 0, 1)
    file = tmp_path / "scores.csv"
    file.write_text(
        "id,probability_mean\n" + "".join(f"{i},{s}\n" for i, s in zip(ids, scores.tolist(), strict=True))
    )
    common = [
        "train-head",
        "--set",
        "n_resamples=20",
        "--features",
        str(toy_path),
        "--model",
        "linear",
        "--epochs",
        "1",
    ]

    def result(name: str, *more: str) -> tuple[dict[str, Any], str]:
        out = tmp_path / name
        monkeypatch.setattr(sys, "argv", [*common, "--out", str(out), *words, *more])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        assert not stopped.value.code, captured.err
        return json.loads((out / "metrics.json").read_text()), captured.out

    plain, said_before = result("plain")
    beside, said = result("beside", "--floor-scores", f"zero-shot={file}")
    own = beside["floors"].pop(f"zero-shot on {part}")
    assert "zero-shot" in said and "zero-shot" not in said_before
    assert "zero-shot" in (tmp_path / "beside" / "report.html").read_text()
    assert (
        TrainedHead.load(tmp_path / "beside").info.floors[f"zero-shot on {part}"]["auroc"]
        == own["metrics"]["auroc"]
    )
    with (tmp_path / "beside" / "predictions.csv").open(newline="") as rows:
        scored = {
            row["id"] for row in csv.DictReader(rows) if row["split"] in (part, "train" * (part != "val"))
        }
    places = [place for place, video_id in enumerate(ids) if video_id in scored]
    assert own["metrics"]["n"] == len(places) == (24 if part == "val" else 60)
    assert own["metrics"]["auroc"] == pytest.approx(roc_auc_score(labels[places], scores[places]))
    if part == "out-of-fold":
        beside["cross_validation"]["floors"].pop("zero-shot")
    for told in (beside, beside["cross_validation"] or {"notes": []}):
        told["notes"] = [note for note in told["notes"] if "the zero-shot floor" not in note]
    assert plain | {"seconds": None} == beside | {"seconds": None}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--features", "{cache}", "--floor-scores", "z"), 2, "write NAME=FILE"),
        (("--features", "{cache}", "--floor-scores", "z=absent.csv"), 2, "absent.csv: cannot be read"),
        (("--features", "absent.zarr"), 3, "absent.zarr"),
        (("--features", "{cache}", "--preset", "final-model-5"), 2, "unknown preset"),
        (("--features", "{cache}", "--streams", "audio"), 2, "holds no stream audio"),
        (("--features", "{cache}", "--lr", "5"), 2, "lr must be"),
        (("--features", "{cache}", "--labels", "absent.csv"), 2, "absent.csv"),
        (("--features", "{cache}", "--device", "tpu"), 2, "--device must be"),
    ],
)
def test_mistakes_are_one_line_and_a_code(
    toy_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["train-head", *(a.format(cache=toy_path) for a in arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys, heads.cli.train; assert not {'torch', 'sklearn', 'zarr', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    started = time.perf_counter()
    done = train("--help")
    assert done.returncode == 0
    assert "--features" in done.stdout
    assert time.perf_counter() - started < 5  # 0.2 s on an idle machine; a bound that a busy one keeps


def test_help_shows_few_settings_and_the_rest_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag of its own for every setting still works; `--set` does what the hidden ones do."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train-head", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return capsys.readouterr().out

    shown = run("--help")
    assert all(
        flag in shown for flag in ("--model", "--lr", "--epochs", "--seed", "--set", "--help-settings")
    )
    assert not any(flag in shown for flag in ("--focal-gamma", "--ema-decay", "--warmup-share", "--dropout"))
    told = run("--help-settings")
    for setting in all_settings():
        assert f"{setting.key}={setting.default}" in told
    assert build_config("default", {"loss.focal_gamma": 1.5}, []) == build_config(
        "default", {}, ["focal_gamma=1.5"]
    )


def test_presets_and_settings_become_a_config() -> None:
    config = build_config("final-model-4", {"optim.epochs": 2}, ["model.dropout=0.3", "seed=4"])
    assert (config.optim.epochs, config.optim.batch_size) == (2, 4)
    assert (config.model.dropout, config.seed) == (0.3, 4)
    with pytest.raises(InputError, match="KEY=VALUE"):
        build_config("default", {}, ["seed"])
    assert read_device("cpu") == "cpu"
    with pytest.raises(InputError, match="--device"):
        read_device("tpu")
