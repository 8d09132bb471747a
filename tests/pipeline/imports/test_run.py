"""Features made elsewhere through the command: every video found is stored or rejected, labels join, streams join by id."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import onepass
from cache.check import check_cache
from cache.reader import open_cache
from tests.cache.builders import make_video, open_writer, read_contents

RNG = np.random.default_rng(0)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onepass", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        onepass.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`imports(SRC, OUT, flags...)`: exit code, stdout, stderr of `onepass import SRC --stream i3d --out OUT flags`."""

    def run(src: Path, out: Path, *words: object, stream: str = "i3d") -> tuple[int, str, str]:
        code = call(monkeypatch, "import", src, "--stream", stream, "--out", out, *words)
        said = capsys.readouterr()
        assert said.err.count("\n") <= 1
        return code, said.out, said.err

    return run


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def save(root: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    for name, array in arrays.items():
        path = root / f"{name.replace('Z', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return root


def test_a_folder_with_good_and_bad_files_adds_up(tmp_path: Path, imports: Any) -> None:
    good = {f"FightZ{n}": normal(4, 6) for n in "abc"} | {f"NonFightZ{n}": normal(3, 6) for n in "de"}
    src = save(
        tmp_path / "f", **good, FightZnan=normal(2, 6) * np.nan, FightZflat=np.ones((2, 6), np.float32)
    )
    save(
        src,
        FightZnarrow=normal(2, 5),
        NonFightZnone=np.zeros((0, 6), np.float32),
        NonFightZdeep=normal(1, 2, 3, 6),
    )
    np.save(src / "NonFight" / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    code, said, error = imports(src, tmp_path / "a.zarr", "--fps", 30, "--snippet", 16)
    assert "found      11 = 5 stored + 6 rejected: adds up" in said
    assert code == 1 and "6 of 11 videos were rejected" in error
    assert (
        imports(src, tmp_path / "a.zarr", "--fps", 30, "--snippet", 16, "--max-rejects", 0.6, "--overwrite")[
            0
        ]
        == 0
    )
    with open_cache(tmp_path / "a.zarr") as cache:
        assert not check_cache(cache) and cache.videos.id.tolist() == [n.replace("Z", "/") for n in good]
        assert cache.videos.label.tolist() == [1, 1, 1, 0, 0]
        np.testing.assert_array_equal(cache.tokens("i3d", 0).values, good["FightZa"])
        assert cache.tokens("i3d", 0).spans[-1].tolist() == pytest.approx([48 / 30, 64 / 30])
        assert dict(zip(cache.rejects.id, cache.rejects.reason, strict=True)) == {
            "Fight/flat": "constant-features",
            "Fight/nan": "non-finite-features",
            "Fight/narrow": "unusable-array",
            "NonFight/deep": "unusable-array",
            "NonFight/none": "unusable-array",
            "NonFight/object": "unusable-array",
        }


def test_without_any_usable_array_nothing_is_written(tmp_path: Path, imports: Any) -> None:
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    code, _, error = imports(tmp_path / "f", tmp_path / "a.zarr", "--fps", 1)
    assert code == 2 and "none of 1 videos" in error and "never loaded" in error
    assert not (tmp_path / "a.zarr").exists()


def test_labels_join_as_those_of_extract(tmp_path: Path, imports: Any) -> None:
    src = save(tmp_path / "f", V_1=normal(2, 4), V_2=normal(2, 4), V_3=normal(2, 4))
    labels = tmp_path / "labels.csv"
    labels.write_text("name,label,split\nRWF/V_1.mp4,Fight,train\nV_2.avi,NonFight,val\n")
    code, _, error = imports(src, tmp_path / "a.zarr", "--stride-seconds", 1, "--labels", labels)
    assert code == 2 and "1 videos without a label" in error
    code, said, _ = imports(
        src, tmp_path / "a.zarr", "--stride-seconds", 1, "--labels", labels, "--allow-unmatched"
    )
    assert code == 0 and "2 videos matched" in said
    with open_cache(tmp_path / "a.zarr") as cache:
        assert cache.videos.label.tolist() == [1, 0, -1] and cache.videos.split.tolist() == [
            "train",
            "val",
            "",
        ]


def test_crops_inside_arrays(tmp_path: Path, imports: Any) -> None:
    ten = {"a": normal(3, 10, 4), "b": normal(5, 10, 4)}
    src = save(tmp_path / "f", **ten)
    code, said, _ = imports(src, tmp_path / "a.zarr", "--fps", 1)
    assert code == 0 and "crops: 10 a moment, averaged" in said
    with open_cache(tmp_path / "a.zarr") as cache:
        np.testing.assert_allclose(cache.tokens("i3d", 1).values, ten["b"].mean(axis=1), atol=1e-6)
        assert cache.streams["i3d"].fingerprint["sampling"]["crops"] == "mean"
    swapped = save(tmp_path / "g", **{name: array.swapaxes(0, 1) for name, array in ten.items()})
    assert imports(swapped, tmp_path / "b.zarr", "--fps", 1, "--crops", "tokens")[0] == 0
    with open_cache(tmp_path / "b.zarr") as cache:
        np.testing.assert_array_equal(cache.tokens("i3d", 0).values, ten["a"].reshape(30, 4))
        assert cache.tokens("i3d", 0).spans[[0, 9, 10]].tolist() == [[0, 1], [0, 1], [1, 2]]
        assert not check_cache(cache)
    square = save(tmp_path / "h", a=normal(10, 5, 4))
    code, _, error = imports(square, tmp_path / "c.zarr", "--fps", 1)
    assert code == 2 and "--crops-axis 1 or --crops-axis 0" in error
    assert imports(square, tmp_path / "c.zarr", "--fps", 1, "--crops-axis", 1)[0] == 0
    with open_cache(tmp_path / "c.zarr") as cache:
        assert cache.streams["i3d"].n_tokens == 10


def test_crop_files_and_those_that_do_not_fit(tmp_path: Path, imports: Any) -> None:
    """XD-Violence: five files a video; one lacks a crop, one has a crop of another length."""
    crops = {f"v{n}__{c}": normal(3 + n, 4) for n in range(12) for c in range(5)}
    del crops["v10__2"]
    crops["v11__2"] = normal(2, 4)
    code, said, _ = imports(save(tmp_path / "f", **crops), tmp_path / "a.zarr", "--fps", 24, "--snippet", 16)
    assert code == 1 and "found      12 = 10 stored + 2 rejected: adds up" in said
    assert "lacks the crop files __2" in said and "its crops differ in shape" in said
    with open_cache(tmp_path / "a.zarr") as cache:
        mean = np.mean([crops[f"v0__{c}"] for c in range(5)], axis=0)
        np.testing.assert_allclose(cache.tokens("i3d", 0).values, mean, atol=1e-6)


def test_one_file_of_many_videos_single_vectors_and_halves(tmp_path: Path, imports: Any) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name in ("Fight/a", "NonFight/b"):
            file[name] = normal(7).astype(np.float16)
    assert imports(tmp_path / "all.h5", tmp_path / "a.h5")[0] == 0
    with open_cache(tmp_path / "a.h5") as cache:
        assert cache.videos.id.tolist() == ["Fight/a", "NonFight/b"]
        assert cache.streams["i3d"].fingerprint["sampling"] == {"spans": "none"}
        assert cache.streams["i3d"].dtype == "float16" and cache.load("i3d").spans.tolist() == [
            [0, 0],
            [0, 0],
        ]


@pytest.mark.parametrize("form", ["csv", "folder"])
def test_spans_from_a_file_or_a_folder(tmp_path: Path, imports: Any, form: str) -> None:
    src = save(tmp_path / "f", a=normal(2, 4), b=normal(1, 4))
    when = {"a": [[0, 1], [3, 4.5]], "b": [[1, 2]]}
    if form == "csv":
        spans = tmp_path / "spans.csv"
        spans.write_text(
            "id,start,end\n" + "".join(f"{i},{s},{e}\n" for i, rows in when.items() for s, e in rows)
        )
    else:
        spans = save(tmp_path / "s", **{i: np.array(rows) for i, rows in when.items()})
    assert imports(src, tmp_path / "a.zarr", "--spans", spans)[0] == 0
    with open_cache(tmp_path / "a.zarr") as cache:
        assert cache.load("i3d").spans.tolist() == [*when["a"], *when["b"]]
    code, said, _ = imports(save(src, c=normal(1, 4)), tmp_path / "b.zarr", "--spans", spans)
    assert code == 1 and "found      3 = 2 stored + 1 rejected: adds up" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fps", 0), "fps must be above 0"),
        (("--fps", 2, "--spans", "x"), "not both"),
        (("--spans", "nowhere.csv"), "no such file or folder"),
        (("--fps", 2, "--crops", "first"), "choose mean or tokens"),
        (("--fps", 2, "--dtype", "int8"), "choose float16 or float32"),
        (("--fps", 2, "--max-rejects", 2), "a share between 0 and 1"),
        (("--snippet", 16), "without fps"),
    ],
)
def test_flags_that_cannot_be_are_one_line(tmp_path: Path, imports: Any, words: Any, told: str) -> None:
    code, _, error = imports(save(tmp_path / "f", a=normal(2, 4)), tmp_path / "a.zarr", *words)
    assert code == 2 and told in error and not (tmp_path / "a.zarr").exists()


@pytest.fixture
def extracted(tmp_path: Path) -> Path:
    """Three videos as extract leaves them: three tokens of half a second, 1.5 seconds."""
    path = tmp_path / "x.zarr"
    with open_writer(path) as writer:
        writer.commit([make_video(f"train/Fight/{n}.mp4", n_tokens=3) for n in "abc"], [])
    return path


def test_a_stream_joins_an_extracted_cache_by_id(tmp_path: Path, extracted: Path, imports: Any) -> None:
    src = save(tmp_path / "f", a=normal(1, 4), b=normal(2, 4), c=normal(2, 4))
    code, said, _ = imports(src, extracted, "--stride-seconds", 1)
    assert code == 0 and "3 of 3 videos have features, 0 have none, 0 features have no video" in said
    assert "found      3 = 3 stored + 0 rejected: adds up" in said
    assert "at least 67% (train/Fight/a.mp4)" in said and "joined by id alone" in said
    with open_cache(extracted) as cache:
        assert not check_cache(cache) and sorted(cache.streams) == ["clip", "i3d", "slowfast"]
        assert cache.tokens("i3d", 1).spans.tolist() == [[0, 1], [1, 1.5]]
    before = read_contents(extracted)
    code, _, error = imports(src, extracted, "--stride-seconds", 1)
    assert code == 2 and "holds a stream i3d already" in error and read_contents(extracted) == before


def test_a_join_that_misses_is_refused_and_changes_nothing(
    tmp_path: Path, extracted: Path, imports: Any
) -> None:
    before = read_contents(extracted)
    src = save(tmp_path / "f", a=normal(1, 4), b=normal(1, 4), b_2=normal(1, 4))
    code, _, error = imports(src, extracted, "--fps", 2)
    assert code == 2 and "2 of 3 videos have features, 1 have none, 1 features have no video" in error
    assert "videos without features: train/Fight/c.mp4" in error and "without a video: b_2" in error
    save(src, c=normal(1, 4))
    code, _, error = imports(src, extracted, "--fps", 2)
    assert code == 2 and "--allow-unmatched" in error
    bad = save(tmp_path / "g", a=normal(1, 4), b=normal(1, 4), c=normal(1, 4) * np.nan)
    code, _, error = imports(bad, extracted, "--fps", 2)
    assert code == 2 and "nothing was added: 1 of 3" in error
    late = save(tmp_path / "h", a=normal(9, 4), b=normal(1, 4), c=normal(1, 4))
    code, _, error = imports(late, extracted, "--fps", 1)
    assert code == 2 and "the video ends at 1.50 s" in error
    code, _, error = imports(src, extracted, "--fps", 2, "--positive", "Fight")
    assert code == 2 and "has its own labels" in error
    assert read_contents(extracted) == before
    code, said, _ = imports(src, extracted, "--fps", 2, "--allow-unmatched")
    assert (
        code == 0 and "found      4 = 3 stored + 0 rejected + 1 without a video in the cache: adds up" in said
    )


def test_two_imported_streams_and_what_names_them(
    tmp_path: Path, imports: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    src = save(tmp_path / "f", **{f"{c}Z{n}": normal(2, 4) for c in ("Fight", "NonFight") for n in "abcdef"})
    assert imports(src, tmp_path / "a.zarr", "--fps", 1, "--made-by", "I3D RGB")[0] == 0
    assert imports(src, tmp_path / "a.zarr", "--fps", 2, stream="audio")[0] == 0
    assert call(monkeypatch, "inspect", tmp_path / "a.zarr") == 0
    said = capsys.readouterr().out
    assert "weights imported (I3D RGB, " in said and "unknown, weights imported (" in said
    with open_cache(tmp_path / "a.zarr") as cache:
        assert not check_cache(cache)


@pytest.mark.parametrize("how", ["npy", "parquet"])
def test_what_was_exported_is_imported_the_same(
    tmp_path: Path, imports: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Ids, values, spans and dtypes; from .npy labels, splits and sources as well. Again, and the digest is the same."""
    if how == "parquet":
        pytest.importorskip("pyarrow")
    videos = [make_video(f"train/v {n}.mp4", source=f"s{n // 2}") for n in range(6)]
    with open_writer(tmp_path / "x.zarr") as writer:
        writer.commit(videos, [])
    digests = []
    for number, path in enumerate((tmp_path / "x.zarr", tmp_path / "0.zarr")):
        out = tmp_path / f"e{number}"
        assert call(monkeypatch, "export", path, "--format", how, "--out", out, "--stream", "clip") == 0
        src, words = (out / "clip.csv", ("--spans", "spans")) if how == "npy" else (out / "clip.parquet", ())
        code, said, _ = imports(src, tmp_path / f"{number}.zarr", *words, stream="clip")
        assert code == 0 and "6 stored + 0 rejected" in said
        with open_cache(tmp_path / "x.zarr") as a, open_cache(tmp_path / f"{number}.zarr") as b:
            assert b.videos.id.tolist() == a.videos.id.tolist() and not check_cache(b)
            before, after = a.load("clip"), b.load("clip")
            assert before.values.dtype == after.values.dtype and np.array_equal(before.values, after.values)
            assert np.array_equal(before.spans, after.spans) and np.array_equal(before.offsets, after.offsets)
            if how == "npy":
                for column in ("label", "label_name", "split", "source"):
                    assert getattr(b.videos, column).tolist() == getattr(a.videos, column).tolist()
            digests.append(b.streams["clip"].fingerprint["weights"]["digest"])
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("made_by", ["I3D", ""])
def test_a_head_is_trained_on_imported_features_and_says_so(
    tmp_path: Path,
    imports: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made_by: str,
) -> None:
    """It scores other features only where both were said to be made alike."""
    for place in ("a", "b"):
        arrays = {
            f"{c}Z{place}{n}": normal(3, 4) + 2 * (c == "Fight")
            for c in ("Fight", "NonFight")
            for n in range(12)
        }
        words = ("--fps", 1, "--made-by", made_by) if made_by else ("--fps", 1)
        assert imports(save(tmp_path / place, **arrays), tmp_path / f"{place}.zarr", *words)[0] == 0
    head = tmp_path / "head"
    words = ("--model", "logistic", "--cv", 3, "--set", "n_resamples=20")
    assert call(monkeypatch, "train-head", "--features", tmp_path / "a.zarr", "--out", head, *words) == 0
    assert f"i3d: imported ({made_by}" in capsys.readouterr().out
    code = call(monkeypatch, "predict", tmp_path / "b.zarr", "--head", head, "--out", tmp_path / "s.csv")
    said = capsys.readouterr()
    if made_by:
        assert code == 0 and "imported (I3D, " in said.out
        assert "AUROC" in said.out
    else:
        assert code == 3 and "--made-by" in said.err
