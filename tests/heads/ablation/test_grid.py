from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import InputError
from heads.ablation.grid import Axis, fix_single_values, make_cells, read_axes, short_name
from heads.training.config import TrainConfig, dotted_key, flat_keys


def test_every_combination_is_a_cell_first_values_first() -> None:
    cells, left_out = make_cells(
        TrainConfig(), read_axes(["lr=1e-4,1e-3", "model=linear,mlp", "streams=clip,clip+slowfast"])
    )
    assert len(cells) == 8
    assert left_out == []
    assert cells[0].label == "lr=1e-4 model=linear streams=clip"
    assert cells[3].config.optim.lr == 1e-4
    assert cells[3].config.model.architecture == "mlp"
    assert cells[3].config.data.streams == ("clip", "slowfast")
    assert len({repr(cell.config) for cell in cells}) == 8


def test_a_grid_file_is_read_as_text_so_off_and_exponents_mean_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("lr: [1e-4, 0.001]\npos_weight: [auto, off, 2]\nepochs: 5\nema_decay: off\n")
    base, axes, fixed = fix_single_values(TrainConfig(), read_axes(["model=mlp"], path))
    cells, _ = make_cells(base, axes)
    assert fixed == "epochs=5 ema_decay=off model=mlp"
    assert [cell.config.loss.pos_weight for cell in cells] == ["auto", "off", 2.0] * 2
    assert {cell.config.optim.ema_decay for cell in cells} == {None}
    assert {cell.config.optim.epochs for cell in cells} == {5}
    assert [axis.name for axis in axes] == ["lr", "pos_weight"]


def test_values_that_mean_the_same_are_one_cell() -> None:
    cells, _ = make_cells(TrainConfig(), read_axes(["lr=1e-3,0.001,1e-2"]))
    assert [cell.label for cell in cells] == ["lr=1e-3", "lr=1e-2"]
    (only,), _ = make_cells(TrainConfig(), [])
    assert only.label == "the base settings"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dropuot=0.1,0.2"], r"unknown setting 'dropuot'; did you mean model\.dropout\?"),
        (["lr=fast"], "cannot be 'fast'"),
        (["lr=1e-3,7"], "lr=7: lr must be above 0"),
        (["lr"], "KEY=VALUE"),
        (["lr=1e-3,,1e-2"], "empty value"),
        (["lr=1e-3,1e-2", "optim.lr=1"], "swept twice"),
        (["val_share=0.1,0.2"], "same videos"),
        (["n_resamples=10,20"], "--resamples"),
        (["lr=1e-4..1e-2"], "--search"),
        (["lr=1e-2..1e-4"], "must rise"),
        (["lr=a..b"], "no range"),
        (["model=linear,mlp", "width=8,16"], "model=linear width=8: linear has no width.*--skip-invalid"),
    ],
)
def test_what_cannot_be_swept_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_cells(TrainConfig(), read_axes(settings))


def test_invalid_combinations_are_left_out_and_told() -> None:
    cells, left_out = make_cells(
        TrainConfig(), read_axes(["model=linear,mlp", "width=8,16"]), skip_invalid=True
    )
    assert [cell.label for cell in cells] == ["model=mlp width=8", "model=mlp width=16"]
    assert len(left_out) == 2
    with pytest.raises(InputError, match="no combination"):
        make_cells(TrainConfig(), read_axes(["model=linear", "width=8,16"]), skip_invalid=True)


@pytest.mark.parametrize("text", ["", "- lr\n", "lr: {low: 1}\n", "lr: [[1]]\n", "lr: [1\n"])
def test_a_grid_file_that_is_no_mapping_of_lists_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        read_axes([], path)
    with pytest.raises(InputError, match="cannot be read"):
        read_axes([], tmp_path / "none.yaml")


def test_ranges_are_logarithmic_when_their_ends_are_far_apart() -> None:
    (wide,) = read_axes(["lr=1e-5..1e-2"])
    (narrow,) = read_axes(["dropout=0.1..0.5"])
    assert wide == Axis("optim.lr", low=1e-5, high=1e-2)
    assert wide.is_range
    assert wide.log
    assert not narrow.log


def test_short_names_lead_back_to_their_setting() -> None:
    for key in flat_keys():
        assert dotted_key(short_name(key)) == key
    assert [short_name(k) for k in ("model.architecture", "loss.kind", "data.streams")] == [
        "model",
        "loss",
        "streams",
    ]
