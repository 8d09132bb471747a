"""`onepass predict` from outside: what is tried before the work, what is kept when a part fails, names that look like markup."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import onepass
from cache.errors import CacheCorrupt, StorageFull
from cache.reader import open_cache
from heads.trained.folder import INFO_FILE
from tests.cli_entry import TINY_MODELS
from tests.objects import BUCKET, serving
from tests.videos import write_text, write_video

pytestmark = pytest.mark.usefixtures("forked_workers")

Run = Callable[..., tuple[int, str, str]]
NAME = "[x]a[/y].mp4"
"""On a disk: the file `y].mp4` in the folder `[x]a[`."""
EXTRACT = (
    *("--weights", "random", "--clip-model", "tiny-vit", "--runtime", "torch", "--streams", "clip"),
    *("--workers", "1", "--decoder", "pyav", "--max-rejects", "1", "--device", "cpu"),
)
CACHE, HEAD = Path("[x]c[/y].zarr"), Path("[x]h[/y]")
PREDICT = ("--workers", "1", "--decoder", "pyav", "--max-rejects", "1", "--device", "cpu")


def ended_with(words: Sequence[object]) -> int:
    """`onepass WORDS` in this process, which knows the tiny model: the exit code."""
    import open_clip

    open_clip.add_model_config(TINY_MODELS)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["onepass", *map(str, words)])
        onepass.main()
    return int(ended.value.code or 0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = ended_with(words)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, a name that looks like markup, and a broken file with such a name. Read-only by agreement."""
    root = tmp_path_factory.mktemp("predict") / "[x]v[" / "y]"
    for number in range(4):
        for name in ("Fight", "NonFight"):
            split = "val" if number == 3 else "train"
            motion: Any = "violent" if name == "Fight" else "calm"
            write_video(
                root / split / name / f"{number}{name}_0.mp4", seconds=0.8, seed=number, motion=motion
            )
    write_video(root / "train" / "Fight" / NAME, seconds=0.8, seed=9)
    write_text(root / "train" / "Fight" / "[x]b:fire:[" / "y].mp4")
    return root


@pytest.fixture(scope="module")
def made(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of the videos and a head of the cache, made once by the commands. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("made")
    cache, head = folder / CACHE, folder / HEAD
    quick = ("--no-cv", "--epochs", 1, "--set", "n_resamples=0", "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("heads.report.outputs.training_figures", lambda *_: ())
        assert ended_with(("extract", "--src", videos, "--out", cache, *EXTRACT)) == 0
        assert ended_with(("train-head", "--features", cache, "--out", head, *quick)) == 0
    assert str(head) in said.getvalue() and str(cache) in said.getvalue()
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / CACHE, tmp_path / CACHE))


@pytest.fixture
def head(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / HEAD, tmp_path / HEAD))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_names_that_look_like_markup_are_printed_as_they_are(
    run: Run, videos: Path, cache: Path, head: Path, tmp_path: Path
) -> None:
    broken = "train/Fight/[x]b:fire:[/y].mp4"
    report = tmp_path / "[x]r[" / "y].json"
    code, said, _ = run("extract", "--src", videos, "--out", cache, *EXTRACT, "--report", report)
    assert code == 0 and f"{videos} -> {cache}" in said and f"report     {report}" in said and broken in said
    code, said, _ = run("extract", "--src", videos, "--out", cache, *EXTRACT, "--dry-run")
    assert code == 0 and "[x]b:fire:[" in said
    code, said, _ = run("inspect", cache)
    assert code == 0 and str(cache) in said and f"  {broken}: unreadable-container" in said
    code, said, _ = run("audit", cache)
    assert code in (0, 1) and str(cache) in said
    out, timeline = tmp_path / "[x]s[" / "y].csv", tmp_path / "[x]t[" / "y].csv"
    words = ("predict", videos, cache, "--head", head, "--out", out, "--timeline", timeline, *PREDICT)
    code, said, _ = run(*words)
    assert code == 0 and f"head {head}: " in said and f"scores     {out}" in said and str(timeline) in said
    assert "train/Fight/" + NAME in {row["id"] for row in rows_of(out)}


def test_ids_that_are_alike_are_told_apart_by_their_path(
    run: Run, videos: Path, cache: Path, head: Path, tmp_path: Path
) -> None:
    out, timeline = tmp_path / "s.csv", tmp_path / "t.json"
    words = ("--head", head, "--out", out, "--timeline", timeline, *PREDICT)
    code, _, _ = run("predict", videos / "train", cache, videos / "val", f"{videos}/val/../val", *words)
    assert code == 0
    rows = rows_of(out)
    paths = [str(cache), str(videos / "train"), str(videos / "val"), f"{videos}/val/../val"]
    assert list(dict.fromkeys(row["path"] for row in rows)) == paths
    assert len({(row["id"], row["path"]) for row in rows}) == len(rows) == 10 + 8 + 2 + 2
    told = json.loads(timeline.read_text(encoding="utf-8"))["videos"]
    assert {video["path"] for video in told} == set(paths)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{videos}", "{tmp}/nosuchdir"), 2, "nosuchdir"),
        (("{videos}", "{tmp}/nosuch.zarr"), 3, "nosuch.zarr"),
        (("{videos}", "--out", "{tmp}"), 2, "--out"),
        (("{videos}", "--out", "{tmp}/file/s.csv"), 2, "file is a file"),
        (("{videos}", "--out", "{tmp}/folder.csv"), 2, "is a folder"),
        (("{videos}", "--timeline", "{tmp}/folder.csv"), 2, "--timeline"),
        (("{videos}", "--timeline", "{tmp}/file/t.csv"), 2, "--timeline"),
        (("{videos}", "--keep-cache", "{tmp}/file/k.zarr"), 2, "--keep-cache"),
        (("{videos}", "--keep-cache", "{tmp}/k.txt"), 3, "k.txt"),
        (("{cache}", "--keep-cache", "{tmp}/k.zarr"), 2, "--keep-cache"),
        (("{videos}", "--clip-weights", "{tmp}/nosuch.pt"), 4, "nosuch.pt"),
        (("{videos}", "--workers", "-3"), 2, "--workers"),
        (("{videos}", "--workers", "100000"), 2, "--workers"),
        (("{videos}", "--decoder", "ffmpeg"), 2, "--decoder"),
    ],
)
def test_outputs_and_all_inputs_are_tried_before_the_work(
    words: tuple[str, ...],
    code: int,
    message: str,
    run: Run,
    videos: Path,
    cache: Path,
    head: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("pipeline.run.extract", no_work)
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    filled = [word.format(videos=videos, cache=cache, tmp=tmp_path) for word in words]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "s.csv")]
    ended, _, err = run("predict", "--head", head, *PREDICT, *filled)
    assert ended == code and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()


def test_a_path_that_fails_does_not_cost_the_scores_of_the_others(
    run: Run, videos: Path, cache: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import run as pipeline_run

    real = pipeline_run.extract

    def second_fails(config: Any, **options: Any) -> Any:
        if config.src.name == "train":
            raise CacheCorrupt("spoilt")
        return real(config, **options)

    monkeypatch.setattr(pipeline_run, "extract", second_fails)
    out = tmp_path / "s.csv"
    code, _, err = run(
        "predict", videos / "train", videos / "val", cache, "--head", head, "--out", out, *PREDICT
    )
    assert code == 3
    last = err.splitlines()[-1]
    assert last == (f"error: {videos / 'train'}: spoilt (1 of 3 paths failed; what was scored is in {out})")
    assert {row["path"] for row in rows_of(out)} == {str(cache), str(videos / "val")}


def test_inputs_that_are_all_rejected_have_their_rows(
    run: Run, videos: Path, head: Path, tmp_path: Path
) -> None:
    for number in range(12):
        write_text(tmp_path / "broken" / f"{number:02}.mp4")
    out, timeline = tmp_path / "s.csv", tmp_path / "t.csv"
    words = ("--head", head, "--out", out, "--timeline", timeline, *PREDICT)
    code, said, _ = run("predict", tmp_path / "broken", videos / "val", *words)
    assert code == 0
    assert "scored 2 videos" in said and "12 rejected" in said
    assert f"and 2 more: see {out}" in said and "onepass-predict-" not in said
    reasons = {
        row["id"]: row["reject_reason"] for row in rows_of(out) if row["path"] == str(tmp_path / "broken")
    }
    assert reasons == {f"{number:02}.mp4": "unreadable-container" for number in range(12)}
    code, _, err = run("predict", tmp_path / "broken", *words[:-3], "0.5", *words[-2:])
    assert code == 1 and err.startswith("error: 12 of 12 inputs were rejected") and err.count("\n") == 1
    assert len(rows_of(out)) == 12


def test_a_full_temp_folder_costs_no_score_of_what_was_whole(
    run: Run, videos: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import run as pipeline_run

    real = pipeline_run.extract

    def fills_up(config: Any, **options: Any) -> Any:
        real(config, **options)
        raise StorageFull(f"the disk that holds {config.out} is full; everything committed before is intact")

    monkeypatch.setattr(pipeline_run, "extract", fills_up)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "s.csv"
    words = ("predict", videos / "val", "--head", head, "--out", out, *PREDICT)
    code, _, err = run(*words)
    assert code == 5 and err.count("\n") == 1
    assert f"the temp folder {tmp_path} is full" in err and "TMPDIR" in err and "intact" not in err
    assert f"what was scored is in {out}" in err and len(rows_of(out)) == 2
    assert not list(tmp_path.glob("onepass-predict-*"))
    code, _, err = run(*words, "--keep-cache", tmp_path / "k.zarr")
    assert code == 5 and "committed before is intact" in err and "TMPDIR" not in err


def test_features_stay_where_the_scores_cannot_be_written(
    run: Run, videos: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("--out s.csv: the disk is full")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("heads.report.score_sheet.write_scores", full)
        words = ("--head", head, "--out", tmp_path / "s.csv", *PREDICT)
        code, _, err = run("predict", videos / "val", *words)
    assert code == 5
    kept = Path(err.partition("give predict ")[2].partition(" in place")[0])
    with open_cache(kept) as found:
        assert len(found) == 2
    assert run("predict", kept, *words)[0] == 0
    assert len(rows_of(tmp_path / "s.csv")) == 2


def test_a_head_of_features_made_elsewhere_is_one_line(
    run: Run, videos: Path, head: Path, tmp_path: Path
) -> None:
    info = json.loads((head / INFO_FILE).read_text(encoding="utf-8"))
    info["streams"][0]["fingerprint"] = {"stream": "clip", "imported": "sha256:1", "model": "theirs"}
    (head / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")
    code, _, err = run("predict", videos, "--head", head, "--out", tmp_path / "s.csv", *PREDICT)
    assert code == 2 and err.count("\n") == 1
    assert "stream clip was made by theirs" in err and "a cache that holds it can be scored" in err


def test_models_that_make_other_features_are_refused_before_the_work(
    run: Run, videos: Path, head: Path, tmp_path: Path
) -> None:
    info = json.loads((head / INFO_FILE).read_text(encoding="utf-8"))
    info["streams"][0]["fingerprint"]["libraries"]["torch"] = "1.0"
    (head / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")
    words = ("predict", videos / "val", "--head", head, "--out", tmp_path / "s.csv", *PREDICT)
    code, said, err = run(*words)
    assert code == 3 and "libraries.torch" in err and "videos/s" not in said
    assert run(*words, "--allow-library-mismatch")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("train-head", "--features", "{cache}", "--out", "{file}"),
        ("train-head", "--features", "{cache}", "--out", "{new}", "--tensorboard", "{file}"),
        ("ablate", "--features", "{cache}", "--set", "lr=1e-3", "--out", "{file}"),
        ("export-onnx", "--head", "{head}", "--out", "{file}/h.onnx"),
        ("convert", "{cache}", "{file}/c.h5"),
        ("demo", "--out", "{file}"),
        ("extract", "--src", "{videos}", "--out", "{file}/c.zarr", *EXTRACT),
        ("extract", "--src", "{videos}", "--out", "{new}.zarr", *EXTRACT, "--report", "{file}/r.json"),
        (
            "extract",
            "--src",
            "{videos}",
            "--out",
            "{new}.zarr",
            *EXTRACT,
            "--dry-run",
            "--report",
            "{file}/r",
        ),
        ("verify", "{cache}", "--src", "{new}"),
    ],
)
def test_every_command_tries_its_paths_first(
    words: tuple[str, ...], run: Run, videos: Path, cache: Path, head: Path, tmp_path: Path
) -> None:
    file, new = tmp_path / "file", tmp_path / "new"
    file.touch()
    filled = [word.format(cache=cache, head=head, videos=videos, file=file, new=new) for word in words]
    code, said, err = run(*filled)
    assert (code, said) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert not new.exists() and not Path(f"{new}.zarr").exists()


def test_home_in_quotes_is_home(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("convert", cache, "~/c.h5")[0] == 0
    assert (tmp_path / "c.h5").is_file() and "~" not in os.listdir(tmp_path)  # noqa: PTH208


def test_scores_from_python_are_the_command_s(head: Path, videos: Path, run: Run, tmp_path: Path) -> None:
    code, _, _ = run("predict", videos, "--head", head, "--out", tmp_path / "s.csv", *PREDICT)
    assert code == 0
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    lines: list[str] = []
    rows = onepass.predict_videos(head, [videos], device="cpu", workers=1, on_line=lines.append)
    assert [row["id"] for row in rows] == [row["id"] for row in written]
    for row, line in zip(rows, written, strict=True):
        assert (row["reject_reason"] or "") == line["reject_reason"]
        if row["probability"] is not None:
            assert row["probability"] == pytest.approx(float(line["probability"]), abs=1e-9)
    assert any(line.startswith("found ") for line in lines)


def test_videos_in_object_storage_are_scored_alike(
    run: Run, videos: Path, cache: Path, head: Path, tmp_path: Path
) -> None:
    url, out = f"s3://{BUCKET}/v", tmp_path / "s.csv"
    with serving() as server:
        server.put_tree(videos, "v")
        code, _, told = run("predict", url, videos, "--head", head, "--out", out, *PREDICT)
        assert code == 0, told
        code, _, told = run("verify", cache, "--src", url)
    assert code == 2 and "reads local files only, not object storage" in told
    scores: dict[str, dict[str, float]] = {url: {}, str(videos): {}}
    for row in rows_of(out):
        scores[row["path"]][row["id"]] = float(row["probability"] or -1)
    assert scores[url] == pytest.approx(
        scores[str(videos)], abs=1e-6
    )  # another order in a batch, other roundings
    assert len(scores[url]) == 10
