from __future__ import annotations

import json
from typing import Any

import pytest

from cache.errors import CacheCorrupt, CacheError
from cache.objects import record as record_module
from cache.objects.record import CommitRecord, StoredFile, digest_of, object_name

PIECE = digest_of(b"piece")
RECORD = CommitRecord(
    name="v1.zarr",
    sequence=7,
    writer="w",
    host="h",
    time="2026-01-01T00:00:00+00:00",
    previous=digest_of(b"six"),
    n_videos=3,
    n_rejects=1,
    files=(
        StoredFile("v1.zarr/zarr.json", 4, text='{"ü'),
        StoredFile("v1.zarr/streams/clip/values/c.0.0", 100, (PIECE,)),
        StoredFile("v1.zarr.staging/zarr.json", 0),
    ),
)


def test_a_record_is_read_as_it_was_written_and_has_a_line_a_file() -> None:
    data = RECORD.to_bytes()
    assert CommitRecord.from_bytes(data, where="x") == RECORD
    assert len(data.splitlines()) == 2 + len(RECORD.files)
    assert object_name(PIECE) == f"objects/{PIECE}"
    empty = CommitRecord("v1.zarr", 1, "w", "h", "t", "", 0, 0, ())
    assert CommitRecord.from_bytes(empty.to_bytes(), where="x") == empty


def test_files_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "PIECE_BYTES", 40)
    file = StoredFile("v1.h5", 100, ("a", "b", "c"))
    assert list(file.spans()) == [("a", 0, 40), ("b", 40, 40), ("c", 80, 20)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "v1.zarr/../../.bashrc"}, "leads out"),
        ({"path": "/etc/passwd"}, "leads out"),
        ({"path": "other.zarr/zarr.json"}, "leads out"),
        ({"path": "v1.zarr/a\0b"}, "no name"),
        ({"pieces": ["../../x"]}, "cannot be"),
        ({"pieces": []}, "cannot be"),
        ({"size": -1}, "cannot be"),
        ({"size": "many"}, "invalid literal"),
    ],
)
def test_what_a_stranger_wrote_is_refused(change: dict[str, Any], said: str) -> None:
    found = json.loads(RECORD.to_bytes())
    found["files"][1] |= change
    with pytest.raises(CacheCorrupt, match=said):
        CommitRecord.from_bytes(json.dumps(found).encode(), where="s3://b/v1.zarr/commit.json")


def test_a_record_of_another_make_is_told_apart() -> None:
    for name in ("..", ""):
        found = json.loads(RECORD.to_bytes()) | {"name": name}
        found["files"] = [{"path": f"{name}/x", "size": 0}]
        with pytest.raises(CacheCorrupt, match=r"leads out|no name"):
            CommitRecord.from_bytes(json.dumps(found).encode(), where="x")
    for change, said in (({"format": "x"}, "is no commit record"), ({"format_version": 2}, "use the newer")):
        with pytest.raises(CacheError, match=said):
            CommitRecord.from_bytes(json.dumps(json.loads(RECORD.to_bytes()) | change).encode(), where="x")
    found = json.loads(RECORD.to_bytes()) | {"host": "\x1b[31mh\n"}
    assert CommitRecord.from_bytes(json.dumps(found).encode(), where="x").host == "[31mh"
    for data in (b"", b"[]", b"{}", b'"x"'):
        with pytest.raises(CacheCorrupt, match="malformed"):
            CommitRecord.from_bytes(data, where="x")
