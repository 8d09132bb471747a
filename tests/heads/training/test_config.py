from __future__ import annotations

import json
import re

import pytest

from cache.errors import InputError
from heads.training.config import FINAL_MODEL_4, PRESETS, TrainConfig, all_settings, dotted_key, flat_keys


def test_flat_keys_reach_every_section() -> None:
    config = TrainConfig().updated(
        {
            "lr": "3e-4",
            "optim.epochs": 7,
            "model": "fusion",
            "pool": "cls",
            "loss": "focal",
            "focal_alpha": "off",
            "pos_weight": "2.5",
            "streams": "slowfast+clip",
            "patience": "none",
            "batch-size": 16.0,
            "seed": "5",
            "threshold.grid": "fine",
        }
    )
    assert config.optim.lr == 3e-4
    assert config.optim.epochs == 7
    assert config.optim.batch_size == 16
    assert config.optim.patience is None
    assert (config.model.architecture, config.model.pool) == ("fusion", "cls")
    assert (config.loss.kind, config.loss.focal_alpha, config.loss.pos_weight) == ("focal", None, 2.5)
    assert config.data.streams == ("clip", "slowfast")
    assert config.seed == 5
    assert config.threshold.grid == "fine"


def test_words_stay_words_where_words_are_allowed() -> None:
    assert TrainConfig().updated({"pos_weight": "off"}).loss.pos_weight == "off"
    assert TrainConfig().updated({"calibration": "none"}).calibration == "none"
    assert TrainConfig().updated({"scaling": "none"}).model.scaling == "none"
    assert TrainConfig().updated({"data.grid": "clip"}).data.grid == "clip"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("colour", 1),
        ("optim.colour", 1),
        ("grid", "fine"),  # data.grid or threshold.grid
        ("epochs", "many"),
        ("epochs", 2.5),
        ("lr", None),
        ("lr", True),
        ("seed", -1),
        ("selection", "accuracy"),
        ("calibration", "platt"),
        ("n_resamples", -1),
        ("val_share", 0.9),
        ("streams", ()),
    ],
)
def test_what_does_not_fit_is_an_input_error(key: str, value: object) -> None:
    with pytest.raises(InputError):
        TrainConfig().updated({key: value})


def test_json_round_trip() -> None:
    config = FINAL_MODEL_4.updated({"streams": "clip", "pos_weight": 3.0, "seed": 9})
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(InputError, match="unknown setting"):
        TrainConfig.from_dict({"optim": {"momentum": 0.9}})


def test_final_model_4_is_what_that_model_used() -> None:
    config = PRESETS["final-model-4"]
    assert (config.optim.batch_size, config.optim.lr, config.optim.epochs) == (4, 3e-4, 6)
    assert (config.threshold.grid, config.threshold.objective) == ("coarse", "f1")
    assert config.model.architecture == "transformer"
    assert config.model.width is None
    assert config.loss.pos_weight == "auto"


def test_every_setting_has_a_dotted_name() -> None:
    assert {"data.streams", "model.architecture", "loss.kind", "optim.lr", "threshold.grid", "seed"} <= set(
        flat_keys()
    )


def test_an_unknown_setting_is_answered_with_those_spelt_alike() -> None:
    assert dotted_key("lr") == "optim.lr"
    assert dotted_key("batch-size") == "optim.batch_size"
    with pytest.raises(InputError, match=r"'dropuot'; did you mean model\.dropout\?"):
        dotted_key("dropuot")
    with pytest.raises(InputError, match=r"unknown setting 'xyz'; `train-head --help-settings` names them"):
        dotted_key("xyz")


def test_every_setting_is_described_by_its_config() -> None:
    found = {setting.key: setting for setting in all_settings()}
    assert list(found) == flat_keys()
    assert all(setting.values for setting in found.values())
    ranges = re.compile(r"[\[(][^\])]*[\])]")
    bare = [
        setting.key for setting in found.values() if not re.search("[a-z]", ranges.sub("", setting.about))
    ]
    assert not bare, "a range says nothing of what the setting is"
    lr = found["optim.lr"]
    assert (lr.default, lr.values, lr.about) == ("0.001", "a number", "the highest rate, (0, 1]")
    assert found["optim.patience"].values == "a whole number, or off"
    assert found["loss.pos_weight"].values == "auto, off, or a number"
    assert found["threshold.grid"].values == "exact, coarse, fine"
    assert found["optim.clip_norm"].about == "gradient norm is clipped to it"
    for key, value, words in (("lr", "fast", "it is a number"), ("patience", "x", "a whole number, or off")):
        with pytest.raises(InputError, match=f"{key} cannot be '{value}'; .*{words}"):
            TrainConfig().updated({key: value})
