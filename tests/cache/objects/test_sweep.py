from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache.errors import CacheCorrupt, CacheLocked, CacheNotFound
from cache.objects.bucket import Bucket
from cache.objects.mirror import Mirror
from cache.objects.record import RECORD_NAME
from cache.objects.store import ObjectTrouble
from cache.objects.sweep import sweep
from cache.reader import open_cache
from onepass import app
from tests.cache.builders import make_video, open_writer, read_contents
from tests.cache.objects.test_mirror import BATCHES, key, on_another_machine, record, run
from tests.objects import Server

HOUR = 3600


def aged(bucket: Server, url: str, hours: float, name: str = "") -> None:
    """As if what lies at an address had been written so long ago."""
    for each, (data, _) in list(bucket.objects.items()):
        if each.startswith(key(url, name)):
            bucket.objects[each] = (data, int(time.time() - hours * HOUR))


def named(bucket: Server, url: str) -> set[str]:
    return {key(url, f"objects/{piece}") for file in record(bucket, url).files for piece in file.pieces}


def lying(bucket: Server, url: str) -> set[str]:
    return {name for name in bucket.objects if name.startswith(key(url, "objects/"))}


def test_what_no_record_names_goes_and_the_cache_stays(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read_contents(run(url))
    loose = lying(bucket, url) - named(bucket, url)
    assert loose, "three publishes replace the ends of arrays"
    aged(bucket, url, 25)
    late = key(url, f"objects/{'0' * 64}")
    bucket.put(late, b"sent an hour ago", int(time.time() - HOUR))
    told = sweep(url, dry_run=True)
    size = sum(len(bucket.objects[name][0]) for name in loose)
    assert (told.removed, told.removed_bytes, told.young, told.sequence) == (len(loose), size, 1, 3)
    assert loose < lying(bucket, url)
    assert sweep(url) == told and told.kept == len(named(bucket, url))
    assert lying(bucket, url) == named(bucket, url) | {late}
    assert sweep(url).removed == 0
    on_another_machine(local, monkeypatch, "reader")
    with open_cache(url) as cache:
        assert cache.n_videos == 4
    assert read_contents(run(url)) == wanted  # a writer fetches it too, and goes on


def test_a_state_that_may_be_at_work_is_left_alone(bucket: Server, url: str) -> None:
    run(url)
    aged(bucket, url, 25)
    aged(bucket, url, 2, RECORD_NAME)
    before = dict(bucket.objects)
    with pytest.raises(CacheLocked, match=r"commit.json: was written 2\.0 h ago by .* left alone for 24 h"):
        sweep(url)
    assert bucket.objects == before
    assert sweep(url, older_than_hours=1.5).removed


def test_a_damaged_cache_loses_nothing_more(bucket: Server, url: str) -> None:
    run(url)
    aged(bucket, url, 25)
    gone = min(named(bucket, url))
    del bucket.objects[gone]
    before = dict(bucket.objects)
    with pytest.raises(
        CacheCorrupt, match="1 objects that its record names are missing .*nothing was removed"
    ):
        sweep(url)
    assert bucket.objects == before


def test_a_writer_that_comes_meanwhile_is_noticed(
    bucket: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(url, batches=(["a.mp4"], ["b.mp4"]))
    aged(bucket, url, 25)
    listed = Bucket.list_objects

    def slowly(self: Bucket) -> object:
        yield from listed(self)
        monkeypatch.setattr(Bucket, "list_objects", listed)
        run(url)

    monkeypatch.setattr(Bucket, "list_objects", slowly)
    before = lying(bucket, url)
    with pytest.raises(CacheCorrupt, match="another writer published while it was swept"):
        sweep(url)
    assert before <= lying(bucket, url)


def test_from_the_command_line(bucket: Server, url: str, tmp_path: Path) -> None:
    run(url)
    aged(bucket, url, 30)
    n_loose = len(lying(bucket, url) - named(bucket, url))
    told = CliRunner().invoke(app, ["sweep", url, "--dry-run"])
    assert (
        told.exit_code == 0 and f"; {n_loose} others (" in told.output and "would be removed" in told.output
    )
    assert f" {n_loose} others (" in CliRunner().invoke(app, ["sweep", url]).output
    (tmp_path / "store/none.zarr").mkdir(parents=True)
    with pytest.raises(CacheNotFound, match=r"no commit.json is there"):
        sweep(f"file://{tmp_path}/store/none.zarr")
    run(f"file://{tmp_path}/store/v1.zarr")
    assert sweep(f"file://{tmp_path}/store/v1.zarr", older_than_hours=0).removed == n_loose


def test_what_is_somebody_elses_stays(bucket: Server, url: str) -> None:
    run(url)
    run(f"{url}/objects/inner.zarr")
    bucket.put(key(url, "objects/readme.txt"), b"mine")
    aged(bucket, url, 25)
    inner = {name for name in bucket.objects if "/inner.zarr/" in name or name.endswith("readme.txt")}
    assert sweep(url).removed and inner <= set(bucket.objects)


def test_what_another_writer_puts_again_meanwhile_stays(
    bucket: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed as old, then sent once more by a run that has not named it yet."""
    run(url)
    aged(bucket, url, 25)
    loose = lying(bucket, url) - named(bucket, url)
    again = min(loose)
    listed = Bucket.list_objects

    def then(self: Bucket) -> object:
        yield from list(listed(self))
        monkeypatch.setattr(Bucket, "list_objects", listed)
        bucket.put(again, bucket.objects[again][0], int(time.time()))

    monkeypatch.setattr(Bucket, "list_objects", then)
    sweep(url)
    assert lying(bucket, url) == named(bucket, url) | {again}


@pytest.mark.parametrize("how", ["before the record", "later"])
def test_a_run_puts_back_what_was_swept_from_under_it(
    bucket: Server, url: str, how: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that has the working copy heals the address, with nothing new to publish."""
    if how == "later":
        wanted = read_contents(run(url))
        for name in sorted(named(bucket, url))[:3]:
            del bucket.objects[name]
    else:
        replaced = Bucket.replace_record

        def swept(self: Bucket, data: bytes, etag: str | None) -> str:
            for name in sorted(lying(bucket, url)):
                del bucket.objects[name]
            return replaced(self, data, etag)

        monkeypatch.setattr(Bucket, "replace_record", swept)
        wanted = read_contents(run(url, batches=BATCHES[:1]))
        monkeypatch.setattr(Bucket, "replace_record", replaced)
    if how == "later":
        run(url)
    assert named(bucket, url) <= lying(bucket, url)
    on_another_machine(local, monkeypatch, "reader")
    with open_cache(url) as cache:
        assert cache.n_videos == len(wanted["videos"])


def test_what_could_not_be_looked_at_after_a_publish_is_made_good_by_the_next(
    bucket: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is in place, an object that it names was swept away, and the storage does not answer just then."""
    with Mirror.open(url, every_seconds=0) as mirror:
        with open_writer(mirror.path) as writer:
            writer.commit([make_video("a.mp4")], [])
        there = Mirror._there

        def silent(self: Mirror) -> set[str]:
            del bucket.objects[min(lying(bucket, url))]
            raise ObjectTrouble("no answer in time", "passing")

        monkeypatch.setattr(Mirror, "_there", silent)
        mirror.publish_if_due()
        monkeypatch.setattr(Mirror, "_there", there)
        assert named(bucket, url) - lying(bucket, url)
    assert named(bucket, url) <= lying(bucket, url)
