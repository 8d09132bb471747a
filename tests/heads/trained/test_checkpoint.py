from __future__ import annotations

import json
from pathlib import Path

import pytest

from cache.errors import HeadError, StorageFull
from cache.reader import open_cache
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig


@pytest.fixture(scope="module")
def trained(toy_path: Path) -> tuple[TrainedHead, TrainedHead]:
    """Two different heads."""
    made = []
    for seed in (0, 1):
        config = TrainConfig().updated({"epochs": 1, "batch_size": 8, "n_resamples": 0, "seed": seed})
        with open_cache(toy_path) as cache:
            made.append(train_head(cache, config))
    return made[0], made[1]


def test_round_trip_scores_alike(
    trained: tuple[TrainedHead, TrainedHead], tmp_path: Path, toy_path: Path
) -> None:
    head = trained[0]
    loaded = TrainedHead.load(head.save(tmp_path / "head"))
    assert loaded.info.as_dict() == head.info.as_dict()
    assert loaded.training is None
    assert not loaded.model.training
    with open_cache(toy_path) as cache:
        assert loaded.predict(cache).probabilities.tolist() == head.predict(cache).probabilities.tolist()
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == ["head.json", "head.safetensors"]


def test_two_runs_give_the_same_bytes(toy_path: Path, tmp_path: Path) -> None:
    config = TrainConfig().updated({"epochs": 2, "batch_size": 8, "n_resamples": 20})
    written = []
    for name in ("a", "b"):
        with open_cache(toy_path) as cache:
            folder = train_head(cache, config).save(tmp_path / name)
        written.append([(folder / f).read_bytes() for f in ("head.safetensors", "head.json")])
    assert written[0] == written[1]


def test_head_json_says_what_it_is(trained: tuple[TrainedHead, TrainedHead], tmp_path: Path) -> None:
    values = json.loads((trained[0].save(tmp_path) / "head.json").read_text())
    assert values["weights"] == "clip: random (seed 0), slowfast: random (seed 0)"
    assert values["streams"][0]["fingerprint"]["model"] == "toy-clip"
    assert values["config"]["seed"] == 0
    assert values["label_names"] == ["NonFight", "Fight"]
    assert values["trained_on"]["chosen_on"] == "val"
    assert "torch" in values["versions"]
    assert 0 < values["threshold"]["threshold"] < 1
    assert values["metrics"]["val"]["n"] == 24


def test_a_new_head_replaces_the_old_and_leaves_other_files(
    trained: tuple[TrainedHead, TrainedHead], tmp_path: Path
) -> None:
    trained[0].save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    trained[1].save(tmp_path)
    assert TrainedHead.load(tmp_path).info.config.seed == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("completed", range(5))
def test_a_kill_while_replacing_leaves_a_whole_head(
    trained: tuple[TrainedHead, TrainedHead],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    completed: int,
) -> None:
    """Killed after some of the renames: of the two files as they are completed, and of both into place."""
    trained[0].save(tmp_path)
    done = 0
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        nonlocal done
        if done == completed:
            raise KeyboardInterrupt
        done += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    if completed < 4:
        with pytest.raises(KeyboardInterrupt):
            trained[1].save(tmp_path)
    else:
        trained[1].save(tmp_path)
    monkeypatch.undo()
    loaded = TrainedHead.load(tmp_path)
    assert loaded.info.config.seed == (0 if completed < 3 else 1)
    expected = trained[loaded.info.config.seed]
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.equal(expected.model.state_dict()[name])


def test_damage_is_an_error_that_names_the_file(
    trained: tuple[TrainedHead, TrainedHead], tmp_path: Path
) -> None:
    with pytest.raises(HeadError, match="no such folder"):
        TrainedHead.load(tmp_path / "absent")
    folder = trained[0].save(tmp_path / "head")
    weights, info = folder / "head.safetensors", folder / "head.json"
    good_weights, good_info = weights.read_bytes(), info.read_text()

    weights.write_bytes(good_weights[:-1])
    with pytest.raises(HeadError, match="do not belong together"):
        TrainedHead.load(folder)
    weights.write_bytes(good_weights)
    info.write_text("{")
    with pytest.raises(HeadError, match=r"head\.json is not readable"):
        TrainedHead.load(folder)
    info.write_text("[]")
    with pytest.raises(HeadError, match="no JSON object"):
        TrainedHead.load(folder)
    values = json.loads(good_info)
    values["config"]["optim"]["lr"] = -1
    info.write_text(json.dumps(values))
    with pytest.raises(HeadError, match="lr must be"):
        TrainedHead.load(folder)
    values = json.loads(good_info)
    values["streams"][0]["dim"] = 5
    info.write_text(json.dumps(values))
    with pytest.raises(HeadError, match="does not fit"):
        TrainedHead.load(folder)
    for place, value, message in (
        ("threshold", 7, "threshold cannot be 7"),
        ("temperature", 0, "temperature cannot be 0"),
        ("temperature", float("nan"), "NaN is no number"),
        ("label_names", ["Fight"], "label_names cannot be list"),
    ):
        values = json.loads(good_info)
        if place == "threshold":
            values[place][place] = value
        else:
            values[place] = value
        info.write_text(json.dumps(values))
        with pytest.raises(HeadError, match=message):
            TrainedHead.load(folder)
    info.unlink()
    with pytest.raises(HeadError, match="it needs"):
        TrainedHead.load(folder)


def test_a_full_disk_and_a_bad_folder_are_clear(
    trained: tuple[TrainedHead, TrainedHead], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadError, match="cannot write"):
        trained[0].save(tmp_path / "file" / "head")

    def full(path: Path, contents: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("cache.stores.files.replace", full)
    with pytest.raises(StorageFull, match="disk is full"):
        trained[0].save(tmp_path / "head")
