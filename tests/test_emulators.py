"""az:// and gs:// against emulators, where those are installed; what both clouds' answers look like is in the rooms' tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CacheNotFound, InputError
from cache.objects.mirror import written
from cache.objects.store import ObjectTrouble, open_objects
from cache.objects.sweep import sweep
from cache.reader import open_cache
from pipeline import run as run_module
from tests.cache.objects.test_mirror import BATCHES, on_another_machine, race
from tests.cache.objects.test_mirror import run as publish
from tests.emulators import azurite, google, put_tree
from tests.pipeline.decoding.test_fetching import dated
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, run

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture
def src(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "local"))
    return make_tree(tmp_path / "data")


@pytest.mark.slow
def test_azurite(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(src, tmp_path / "here.zarr")
    whole = contents(tmp_path / "here.zarr")
    with azurite(tmp_path / "azurite") as container:
        put_tree(container, src, "data")
        out = f"{container}/v1/part.zarr"
        report = run(f"{container}/data", Path(out), publish_seconds=0, commit_videos=2)
        assert (report.stored, report.rejected) == (len(GOOD), len(BAD)) and report.adds_up
        objects = open_objects(container)
        times = {one.key.removeprefix("data/"): one.mtime_ns for one in objects.list("data")}
        assert contents(Path(out)) == dated(whole, times)
        assert sweep(out, older_than_hours=0).removed > 0
        on_another_machine(tmp_path / "local", monkeypatch, "other")
        assert contents(Path(out)) == dated(whole, times)

        listed = {one.key: one for one in objects.list("data")}
        key = f"data/{GOOD[0]}"
        assert objects.read_all(key, listed[key].etag)[1] == objects.look(key) == listed[key]
        objects.remove([key])
        vanished = run(f"{container}/data", tmp_path / "gone.zarr")
        assert vanished.found == len(GOOD) + len(BAD) - 1
        with pytest.raises(ObjectTrouble, match=r"is not there \(404 BlobNotFound\)"):
            objects.read_all(key)

        for number in range(20):
            race(f"{container}/races/{number}.zarr", tmp_path / "races", monkeypatch)
        with written(Path(f"{container}/v1/copy.zarr"), say=lambda _: None) as path:
            run(src, path)
        assert contents(Path(f"{container}/v1/copy.zarr")) == whole
        said = r"there is no such container \(404 ContainerNotFound\); make it, or correct its name"
        with pytest.raises(InputError, match=rf"^az://none/data: {said}"):
            run("az://none/data", tmp_path / "none.zarr")
        for touch in (open_cache, sweep, publish):
            with pytest.raises(ObjectTrouble, match=rf"^az://none/v1.zarr/commit.json: {said}"):
                touch("az://none/v1.zarr")
        with pytest.raises(CacheNotFound, match=rf"^no cache at {container}/none.zarr"):
            open_cache(f"{container}/none.zarr")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoZSBrZXk=")
        with pytest.raises(
            ObjectTrouble, match=r"access was denied \(403 AuthorizationFailure\); check"
        ) as caught:
            publish(f"{container}/v1.zarr", batches=BATCHES)
        assert "bm90" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_fake_gcs_server(src: Path, tmp_path: Path) -> None:
    """It is only read from. A put with a condition is tested against `tests/objects.py`, no server of others."""
    run(src, tmp_path / "here.zarr")
    with google(tmp_path, src, "data") as url:
        assert run(url, tmp_path / "c.zarr").adds_up
        store_url, _, prefix = url.rpartition("/")
        objects = open_objects(store_url)
        listed = {one.key.removeprefix("data/"): one for one in objects.list(prefix)}
        times = {name: one.mtime_ns for name, one in listed.items()}
        key = f"data/{GOOD[0]}"
        assert objects.look(key).etag == listed[GOOD[0]].etag == objects.read_all(key)[1].etag
        assert objects.read(key, 10, 20)[0] == (src / GOOD[0]).read_bytes()[10:20]
        manifest = tmp_path / "list.csv"
        manifest.write_text(f"path\n{url}/{GOOD[0]}\n{url}/train/Fight/none.mp4\n", encoding="utf-8")
        assert run(manifest, tmp_path / "m.zarr").rejects[f"{url}/train/Fight/none.mp4"][0] == "missing-file"
    assert contents(tmp_path / "c.zarr") == dated(contents(tmp_path / "here.zarr"), times)
