"""Extraction on a real local Ray cluster of several nodes: the single run's result, also when a node is killed in mid-run."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cache.errors import InputError
from cache.process.terminal import make_console
from cache.reader import open_cache
from pipeline.backbones.load import BackboneConfig
from pipeline.config import ExtractConfig
from pipeline.engines import on_ray
from pipeline.engines.on_ray import RayEngine, extract_on_ray
from pipeline.reporting.report import ExtractReport
from tests.pipeline.trees import BAD, contents, make_tree, run
from tests.videos import write_video

WITHOUT = "ray is not installed (extra 'ray'): its tests need a real cluster"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=WITHOUT)


def settings(src: Path, out: Path, **changes: Any) -> ExtractConfig:
    given: dict[str, Any] = {
        "backbones": BackboneConfig.of(("motion",)),
        "max_rejects": 1.0,
        "commit_videos": 1,
    }
    return ExtractConfig(src=src, out=out, **(given | changes))


def on_cluster(config: ExtractConfig, engine: RayEngine) -> tuple[ExtractReport, str]:
    printed = io.StringIO()
    report = extract_on_ray(config, engine, console=make_console(file=printed, width=200), workers=1)
    return report, printed.getvalue()


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files in the layout of RWF-2000 and twelve videos of a minute: a signal finds work left."""
    root = make_tree(tmp_path_factory.mktemp("ray") / "data")
    first = write_video(root / "train/Fight/long_00_0.mp4", seconds=60)
    for number in range(1, 12):
        path = root / "train" / ("Fight", "NonFight")[number % 2] / f"long_{number:02}_0.mp4"
        path.write_bytes(first.read_bytes() + bytes([number]))  # a byte behind the end: another digest
    return root


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without processors and two nodes of one each, as processes of this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 80 << 20,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 3},
        },
    )
    nodes = [made.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
    ray.init(made.address, log_to_driver=False, logging_level="error")
    made.workers = nodes
    yield made
    ray.shutdown()
    made.shutdown()


def kill_a_node_in_mid_run(parts: Path, cluster: Any, killed: list[str]) -> None:
    """SIGKILL to every process of the node whose worker is the first to have stored a video of a shard that is not finished."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.workers}
    until = time.monotonic() + 240
    while time.monotonic() < until:
        for note in parts.glob("*.zarr.lock.json"):
            part = note.with_name(note.name.removesuffix(".lock.json"))
            try:
                with open_cache(part) as cache:
                    begun = len(cache) > 0 and not cache.provenance["shard"]["finished"]
                found = on_ray.Part(1, 1, part, 0).where()
                parent = psutil.Process(int(found.split()[1])).ppid() if begun and found else 0
            except (OSError, psutil.Error, on_ray.OnepassError):
                continue
            if parent in raylets:
                node = psutil.Process(parent)
                for process in (
                    node,
                    *node.children(recursive=True),
                ):  # all of the machine, as a power cut does
                    process.kill()
                killed.append(part.name)
                return
        time.sleep(0.05)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # ray leaves files open
def test_a_node_killed_in_mid_run_changes_nothing(src: Path, tmp_path: Path, cluster: Any) -> None:
    killed: list[str] = []
    config = settings(src, tmp_path / "all.zarr")
    killer = threading.Thread(
        target=kill_a_node_in_mid_run, args=(tmp_path / "all.zarr.parts", cluster, killed), daemon=True
    )
    killer.start()
    report, printed = on_cluster(config, RayEngine(address=cluster.address, shards=3))
    killer.join()
    assert len(killed) == 1, printed
    assert report.adds_up and report.found == 20 and set(report.rejects) == set(BAD)
    assert "1 shards begun again" in printed and "merged     3 parts" in printed
    run(src, tmp_path / "whole.zarr", streams=("motion",))
    assert contents(tmp_path / "all.zarr") == contents(tmp_path / "whole.zarr")
    # the shard went on from what was committed: its log holds both starts
    log = (tmp_path / "all.zarr.parts" / killed[0]).with_suffix(".log").read_text(encoding="utf-8")
    assert log.count("stream motion:") == 2 and "of them before this run" in log
    with pytest.raises(InputError, match="exists: extract without --engine adds to it"):
        on_cluster(config, RayEngine(address=cluster.address))


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")
def test_ctrl_c_commits_and_the_same_command_goes_on(src: Path, tmp_path: Path, cluster: Any) -> None:
    config = settings(src, tmp_path / "all.zarr")
    parts = tmp_path / "all.zarr.parts"

    ended = threading.Event()

    def interrupt() -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until and not list(parts.glob("*.zarr/videos/id/c.0")):
            if ended.wait(0.05):
                return  # a Ctrl-C now would end the tests
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        report, _ = on_cluster(config, RayEngine(address=cluster.address, shards=2))
    finally:
        ended.set()
    assert report.interrupted and report.adds_up and report.not_reached > 0
    assert not config.out.exists()
    with pytest.raises(InputError, match="was begun with 2 shards: go on with those"):
        on_cluster(config, RayEngine(address=cluster.address, shards=3))
    report, _ = on_cluster(config, RayEngine(address=cluster.address))
    assert report.adds_up and report.stored_before > 0 and report.found == 20
    run(src, tmp_path / "whole.zarr", streams=("motion",))
    assert contents(tmp_path / "all.zarr") == contents(tmp_path / "whole.zarr")
