"""Exported features: what others read is what is stored, and nothing leads out of the folder."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.export import export_cache
from cache.reader import open_cache
from cache.schema import StreamSpec, VideoFeatures
from tests.cache.builders import CLIP, STREAMS, fingerprint, make_reject, make_video, write_cache


def made(path: Path, ids: Sequence[str] = ("train/Fight/a.mp4", "b, c.mp4")) -> Path:
    return write_cache(path, [make_video(video_id) for video_id in ids], [make_reject("bad.mp4")])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def exported(tmp_path: Path, how: str, **settings: Sequence[str]) -> Path:
    with open_cache(made(tmp_path / "a.zarr")) as cache:
        export_cache(cache, tmp_path / "out", how=how, **settings)
    return tmp_path / "out"


def test_npy_files_and_what_lies_beside_them(tmp_path: Path) -> None:
    out = exported(tmp_path, "npy")
    with open_cache(tmp_path / "a.zarr") as cache:
        for name in cache.streams:
            for index, video_id in enumerate(cache.videos.id):
                tokens = cache.tokens(name, index)
                values = np.load(out / name / f"{video_id}.npy", allow_pickle=False)
                assert values.dtype == tokens.values.dtype and np.array_equal(values, tokens.values)
                spans = np.load(out / f"{name}-spans" / f"{video_id}.npy", allow_pickle=False)
                assert np.array_equal(spans, tokens.spans)
        videos = table(out / "videos.csv")
        assert [row["id"] for row in videos] == cache.videos.id.tolist()
        assert [float(row["duration_seconds"]) for row in videos] == cache.videos.duration_seconds.tolist()
        about = json.loads((out / "streams.json").read_text(encoding="utf-8"))
        assert about["label_names"] == ["NonFight", "Fight"]
        assert about["streams"]["clip"] == dict(cache.streams["clip"].fingerprint)
    assert table(out / "rejects.csv")[0]["reason"] == "no-frames"


def test_a_csv_holds_every_number_of_one_stream(tmp_path: Path) -> None:
    out = exported(tmp_path, "csv", streams=["clip"])
    assert not (out / "slowfast.csv").exists()
    rows = list(csv.reader((out / "clip.csv").read_text(encoding="utf-8").splitlines()))
    with open_cache(tmp_path / "a.zarr") as cache:
        tokens = cache.load("clip")
        assert rows[0] == ["id", "start_seconds", "end_seconds", *(f"f{n}" for n in range(6))]
        read = np.array([row[1:] for row in rows[1:]], dtype=np.float64)
        assert np.array_equal(read[:, :2].astype(np.float32), tokens.spans)
        assert np.array_equal(read[:, 2:].astype(np.float16), tokens.values)
        ids = np.repeat(cache.videos.id, tokens.lengths).tolist()
        assert [row[0] for row in rows[1:]] == ids


def test_parquet_or_one_line_that_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        patch.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(InputError, match=r"pip install 'onepass\[parquet\]'"):
            exported(tmp_path, "parquet")
        assert not (tmp_path / "out").exists()
    pq = pytest.importorskip("pyarrow.parquet")
    with open_cache(tmp_path / "a.zarr") as cache:
        export_cache(cache, tmp_path / "out", how="parquet")
        table = pq.read_table(tmp_path / "out" / "clip.parquet")
        assert np.array_equal(np.array(table["values"].to_pylist(), np.float16), cache.load("clip").values)
        assert table["id"].to_pylist() == np.repeat(cache.videos.id, cache.load("clip").lengths).tolist()


def test_ids_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    odd = ["../../up.mp4", "/etc/top.mp4", "a//b.mp4", "./c.mp4"]
    with open_cache(made(tmp_path / "a.zarr", odd)) as cache:
        export_cache(cache, tmp_path / "in" / "out", how="npy")
    written = set(tmp_path.rglob("*.npy"))
    assert len(written) == 2 * len(odd) * len(STREAMS)
    assert all((tmp_path / "in" / "out").resolve() in path.resolve().parents for path in written)


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    with open_cache(made(tmp_path / "a.zarr")) as cache:
        with pytest.raises(InputError, match="choose from npy, parquet, csv"):
            export_cache(cache, tmp_path / "out", how="mat")
        with pytest.raises(InputError, match="holds no stream audio; it holds clip, slowfast"):
            export_cache(cache, tmp_path / "out", how="npy", streams=["audio"])
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        with pytest.raises(InputError, match="not empty"):
            export_cache(cache, tmp_path / "out", how="npy")


@pytest.mark.parametrize("how", ["npy", "csv"])
def test_what_is_absent_has_no_file_and_its_reason_is_written(how: str, tmp_path: Path) -> None:
    sound = StreamSpec("audio", 3, "float16", fingerprint("audio"), optional=True)
    whole = make_video("a.mp4", streams=(CLIP, sound), n_tokens=4)
    mute = make_video("b.mp4", streams=(CLIP,), n_tokens=2)
    path = write_cache(
        tmp_path / "c.zarr",
        [whole, VideoFeatures(mute.row, mute.tokens, {"audio": "no audio stream"})],
        streams=(CLIP, sound),
    )
    with open_cache(path) as cache:
        said = export_cache(cache, tmp_path / "out", how=how)
    assert said[0].startswith("audio: 4 tokens of 1 videos")
    assert (tmp_path / "out" / "absent.csv").read_text().splitlines() == [
        "stream,id,reason",
        "audio,b.mp4,no audio stream",
    ]
    listed = (tmp_path / "out" / "audio.csv").read_text()
    assert "a.mp4" in listed and "b.mp4" not in listed
    assert "b.mp4" in (tmp_path / "out" / "clip.csv").read_text()
