from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import CacheNotFound, InputError
from cache.objects.bucket import Bucket
from cache.objects.mirror import Mirror
from cache.objects.record import object_name
from cache.objects.store import ObjectTrouble
from cache.objects.sweep import sweep
from cache.reader import open_cache
from tests.objects import BUCKET, Server, point_google_at


@pytest.mark.parametrize("kind", ["s3", "gs", "file"])
def test_a_record_is_replaced_by_whoever_knows_it(
    kind: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_google_at(bucket.address, tmp_path, monkeypatch)
    place = Bucket(f"file://{tmp_path}/v1.zarr" if kind == "file" else f"{kind}://{BUCKET}/{kind}/v1.zarr")
    assert place.name == "v1.zarr" and place.read_record() is None
    first = place.replace_record(b"1", None)
    assert place.read_record() == (b"1", first)
    second = place.replace_record(b"22", first)
    for stale, trouble in ((None, "exists"), (first, "changed")):
        with pytest.raises(ObjectTrouble) as caught:
            place.replace_record(b"333", stale)
        assert caught.value.kind == trouble
    assert place.read_record() == (b"22", second)


def test_google_cloud_storage_goes_by_generations(
    bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by etags, which are equal where contents are: a record that was replaced by its like is another one."""
    point_google_at(bucket.address, tmp_path, monkeypatch)
    place = Bucket(f"gs://{BUCKET}/v1.zarr")
    first = place.replace_record(b"1", None)
    second = place.replace_record(b"2", first)
    assert place.replace_record(b"1", second) == str(int(first) + 2)
    with pytest.raises(ObjectTrouble) as caught:
        place.replace_record(b"3", first)
    assert caught.value.kind == "changed" and place.read_record() == (b"1", str(int(first) + 2))


@pytest.mark.parametrize("kind", ["s3", "gs", "file"])
def test_what_is_gone_already_stops_no_removal(
    kind: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_google_at(bucket.address, tmp_path, monkeypatch)
    place = Bucket(f"file://{tmp_path}/v1.zarr" if kind == "file" else f"{kind}://{BUCKET}/v1.zarr")
    names = [object_name(f"{n:064x}") for n in range(4)]
    for name in names[1:]:
        place.write(name, b"x")
    assert sorted(one.key for one in place.list_objects()) == names[1:]
    place.remove(names)
    assert not list(place.list_objects())


def test_a_bucket_that_is_not_there_is_no_empty_one(
    bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_google_at(bucket.address, tmp_path, monkeypatch)
    for scheme in ("s3", "gs"):
        url = f"{scheme}://{BUCKET}/v1.zarr"
        for touch in (Mirror.open, sweep, open_cache):
            bucket.faults["v1.zarr/commit.json"].append("404 NoSuchBucket")
            with pytest.raises(ObjectTrouble) as caught:
                touch(url)
            said = (
                f"{url}/commit.json: there is no such bucket (404 NoSuchBucket); make it, or correct its name"
            )
            assert (caught.value.kind, str(caught.value)) == ("no-bucket", said)


def test_a_folder_that_is_not_there_is_not_made_to_be_read(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/none/v1.zarr"
    for touch in (sweep, open_cache):
        with pytest.raises(CacheNotFound, match=rf"^{url}: there is no such folder"):
            touch(url)
    assert not list(tmp_path.iterdir())


def test_an_address_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url, said in (
        ("s3://bucket", "is a whole bucket"),
        ("s3://bucket/run.zarr#1", r"no '\?' and no '#'"),
        (f"file://{tmp_path}/file/v1.zarr", "cannot be made"),
    ):
        with pytest.raises(InputError, match=said):
            Bucket(url)
