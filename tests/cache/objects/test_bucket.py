from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import pytest

from cache.errors import InputError
from cache.objects.bucket import Bucket
from cache.objects.store import ObjectTrouble
from tests.objects import Server


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_record_is_replaced_by_whoever_knows_it(
    kind: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Bucket(f"s3://bucket/{kind}/v1.zarr" if kind == "s3" else f"file://{tmp_path}/v1.zarr")
    assert place.name == "v1.zarr" and place.read_record() is None
    first = place.replace_record(b"1", None)
    assert place.read_record() == (b"1", first)
    second = place.replace_record(b"22", first)
    for stale, trouble in ((None, "exists"), (first, "changed")):
        with pytest.raises(ObjectTrouble) as caught:
            place.replace_record(b"333", stale)
        assert caught.value.kind == trouble
    assert place.read_record() == (b"22", second)


def test_google_cloud_storage_goes_by_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library asks for the generation of what is replaced, not for the etag."""
    asked: list[Any] = []

    meta = {
        "path": "v1.zarr/commit.json",
        "size": 1,
        "e_tag": "etag",
        "version": "17",
        "last_modified": datetime(2026, 1, 1, tzinfo=UTC),
    }
    answer = SimpleNamespace(meta=meta, bytes=lambda: b"1")

    def put(_: Any, key: str, data: bytes, **options: Any) -> dict[str, str]:
        asked.append((key, options["mode"]))
        return {"e_tag": "other", "version": "18"}

    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setattr(obstore, "get", lambda *_, **__: answer)
    monkeypatch.setattr(obstore, "put", put)
    place = Bucket("gs://bucket/v1.zarr")
    assert place.read_record() == (b"1", "17")
    assert place.replace_record(b"2", "17") == "18"
    assert asked == [("v1.zarr/commit.json", {"version": "17"})]


def test_an_address_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url, said in (
        ("s3://bucket", "is a whole bucket"),
        ("s3://bucket/run.zarr#1", r"no '\?' and no '#'"),
        (f"file://{tmp_path}/file/v1.zarr", "cannot be made"),
    ):
        with pytest.raises(InputError, match=said):
            Bucket(url)
