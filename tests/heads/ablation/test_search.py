from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import InputError
from cache.reader import Cache
from heads.ablation import search as ablate_search
from heads.ablation import work as ablate_work
from heads.ablation.grid import read_axes
from heads.ablation.search import search
from heads.ablation.sweep import Sweep
from heads.training.config import TrainConfig

pytest.importorskip("optuna")
AXES = ["lr=1e-4..3e-2", "model=mlp,linear", "width=4,8"]


def test_the_same_search_walks_the_same_path_and_trains_nothing_twice(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = quick.updated({"epochs": 1, "batch_size": 32})
    monkeypatch.setattr(ablate_search, "BATCH", 4)
    with Sweep(toy_cache, base, out=tmp_path, n_seeds=1) as sweep:
        cells, records = search(sweep, read_axes(AXES), n_cells=10)
        assert 2 <= len(cells) <= 10
        assert len(records) == len(cells)
        assert {cell.config.model.architecture for cell in cells} == {"mlp"}  # linear has no width
        assert all(1e-4 <= cell.config.optim.lr <= 3e-2 for cell in cells)

        def refuse(*arguments: object, **options: object) -> None:
            raise AssertionError("a finished run was trained again")

        monkeypatch.setattr(ablate_work, "fit_jobs", refuse)
        again, found = search(sweep, read_axes(AXES), n_cells=10)
        assert [cell.label for cell in again] == [cell.label for cell in cells]
        assert found == records


def test_searches_that_cannot_be_are_refused(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    with Sweep(toy_cache, quick, out=tmp_path, n_seeds=1) as sweep:
        with pytest.raises(InputError, match="something to search"):
            search(sweep, [], n_cells=3)
        with pytest.raises(InputError, match="1 to 10,000"):
            search(sweep, read_axes(AXES), n_cells=0)
        with pytest.raises(InputError, match="no proposal could be trained"):
            search(sweep, read_axes(["model=linear,attention-pool", "width=4,8"]), n_cells=3)
