"""Arrays from files: plain numbers only, and a reason for everything else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.errors import InputError
from cache.token_arrays import UnusableFeatures
from pipeline.imports.arrays import ArrayPlace, array_names, parquet_rows, read_array, shape_of

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(path: Path, *, how: str = "") -> Path:
    if path.suffix == ".npy":
        np.save(path, VALUES)
    elif path.suffix == ".npz":
        np.savez(path, **{how or "feature": VALUES})
    else:
        with h5py.File(path, "w") as file:
            file[how or "group/feature"] = VALUES
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.hdf5"])
def test_one_array_needs_no_name(tmp_path: Path, name: str) -> None:
    place = ArrayPlace(saved(tmp_path / name))
    assert shape_of(place) == ((2, 3), np.float32)
    np.testing.assert_array_equal(read_array(place), VALUES)


def test_of_several_arrays_one_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", rgb=VALUES, flow=VALUES + 1)
    assert read_array(ArrayPlace(tmp_path / "a.npz", "flow"))[0, 0] == 1
    assert array_names(tmp_path / "a.npz") == ("rgb", "flow")
    with pytest.raises(UnusableFeatures, match=r"holds 2 arrays \(rgb, flow\); say which with --key"):
        read_array(ArrayPlace(tmp_path / "a.npz"))
    with pytest.raises(UnusableFeatures, match="no array 'depth'"):
        read_array(ArrayPlace(tmp_path / "a.npz", "depth"))


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def objects(folder: Path, mark: Path) -> list[Path]:
    trap = np.array([Trap(mark)], dtype=object)
    np.save(folder / "a.npy", trap, allow_pickle=True)
    np.savez(folder / "b.npz", allow_pickle=True, x=trap)
    (folder / "c.npy").write_bytes(pickle.dumps(Trap(mark)))
    return [folder / name for name in ("a.npy", "b.npz", "c.npy")]


def test_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for path in objects(tmp_path, mark):
        for read in (shape_of, read_array):
            with pytest.raises(UnusableFeatures, match="Python objects.*never loaded") as caught:
                read(ArrayPlace(path, "x" if path.suffix == ".npz" else ""))
            assert caught.value.reason == "unusable-array"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"", "empty-file"),
        ("a.npy", b"hello", "unusable-array"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "unusable-array"),
        ("a.npz", b"PK\x03\x04cut", "unusable-array"),
        ("a.h5", b"no hdf5 at all", "unusable-array"),
    ],
)
def test_damaged_files_have_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (shape_of, read_array):
        with pytest.raises(UnusableFeatures) as caught:
            read(ArrayPlace(tmp_path / name))
        assert caught.value.reason == reason and "\n" not in caught.value.detail


def test_a_cut_file_a_missing_one_and_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnusableFeatures, match="cannot be read as .npy"):
        read_array(ArrayPlace(path))
    with pytest.raises(UnusableFeatures) as caught:
        shape_of(ArrayPlace(tmp_path / "b.npy"))
    assert caught.value.reason == "missing-file"
    np.save(tmp_path / "t.npy", np.array(["a"]))
    with pytest.raises(UnusableFeatures, match="not numbers"):
        read_array(ArrayPlace(tmp_path / "t.npy"))
    np.save(tmp_path / "e.npy", np.zeros((0, 3), np.float32))
    assert shape_of(ArrayPlace(tmp_path / "e.npy"))[0] == (0, 3)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        os.mkfifo(tmp_path / name)
        for read in (shape_of, read_array):
            with pytest.raises(UnusableFeatures, match="no regular file"):
                read(ArrayPlace(tmp_path / name))


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    saved(tmp_path / "secret.h5", how="x")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = VALUES
        file["linked"] = h5py.ExternalLink("secret.h5", "/x")
        layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(2, 3))
        file.create_virtual_dataset("virtual", layout)
    assert array_names(tmp_path / "a.h5") == ("own",)
    for name in ("linked", "virtual"):
        with pytest.raises(UnusableFeatures, match="no array"):
            read_array(ArrayPlace(tmp_path / "a.h5", name))


def test_parquet_without_its_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pip install 'onepass\[parquet\]'"):
        array_names(tmp_path / "a.parquet")


def test_parquet_tables(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = {"id": ["a", "a", "b"], "start": [0.0, 1.0, 0.0], "end": [1.0, 2.0, 1.0]}
    lists = pa.table({**table, "values": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32()))})
    columns = pa.table({**table, "f0": [1.0, 3.0, 5.0], "f1": [2.0, 4.0, 6.0]})
    for made in (lists, columns):
        pq.write_table(made, tmp_path / "t.parquet")
        assert array_names(tmp_path / "t.parquet") == ("a", "b")
        values, spans = parquet_rows(tmp_path / "t.parquet", "a")
        assert values.tolist() == [[1, 2], [3, 4]]
        assert spans is not None and spans.tolist() == [[0, 1], [1, 2]]
        assert read_array(ArrayPlace(tmp_path / "t.parquet", "b")).tolist() == [[5, 6]]
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(UnusableFeatures, match="column of lists"):
        parquet_rows(tmp_path / "t.parquet", "a")


def test_reading_arrays_imports_no_torch() -> None:
    code = "import sys, pipeline.imports.run; sys.exit(int(bool({'torch', 'av', 'cv2'} & set(sys.modules))))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
