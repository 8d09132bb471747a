"""Search instead of a grid: Optuna's TPE proposes cells from lists and ranges, a batch at a time.

Nothing is stored for it. Proposals follow from the seed and from the scores of earlier batches, and finished runs
are read from the sweep's folder, so the same command walks the same path and trains only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cache.errors import InputError
from heads.ablation.grid import Axis, Cell, make_cell
from heads.ablation.leaderboard import Metric
from heads.ablation.runs import RunRecord
from heads.ablation.sweep import Progress, Sweep

if TYPE_CHECKING:
    import optuna

BATCH = 8
"""Cells proposed at once, whatever --jobs is: the path must not depend on the machine."""


def search(
    sweep: Sweep,
    axes: Sequence[Axis],
    *,
    n_cells: int,
    metric: Metric = "auroc",
    on_run: Callable[[Progress], None] | None = None,
) -> tuple[list[Cell], dict[str, RunRecord]]:
    """Train `n_cells` proposed cells (fewer where proposals repeat); cells in order of proposal, and records.

    Proposals that cannot be trained (a linear model of some depth) count as pruned. Raises InputError without
    the package optuna, without axes, or for n_cells outside [1, 10,000].
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("--search needs optuna: pip install 'onepass[search]'") from error
    if not axes:
        raise InputError("--search needs something to search: give --set or --grid")
    if not 1 <= n_cells <= 10_000:
        raise InputError(f"--search takes 1 to 10,000 cells, got {n_cells}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=sweep.base.seed, n_startup_trials=min(BATCH, n_cells))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    cells: dict[str, Cell] = {}
    records: dict[str, RunRecord] = {}
    asked = 0
    while asked < n_cells:
        batch: list[tuple[optuna.Trial, Cell]] = []
        for _ in range(min(BATCH, n_cells - asked)):
            trial = study.ask()
            asked += 1
            try:
                batch.append((trial, _propose(trial, sweep, axes)))
            except InputError as error:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                last = error
        fresh = {repr(cell.config): cell for _, cell in batch}
        if not fresh:
            if not cells and asked >= n_cells:
                raise InputError(f"no proposal could be trained; the last one: {last}")
            continue
        records |= sweep.train(list(fresh.values()), on_run=on_run)
        board = sweep.leaderboard(list(fresh.values()), records, metric=metric, n_resamples=0, floors=False)
        scores = {row.settings: row.scores[metric] for row in board.rows}
        for trial, cell in batch:
            score = scores[fresh[repr(cell.config)].settings]
            if score is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score)
        for name, cell in fresh.items():
            cells.setdefault(name, cell)
    return list(cells.values()), records


def _propose(trial: optuna.Trial, sweep: Sweep, axes: Sequence[Axis]) -> Cell:
    settings = []
    for axis in axes:
        if axis.low is not None and axis.high is not None:
            value: float | str = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
            settings.append((axis.key, f"{value:.4g}"))
        else:
            settings.append((axis.key, str(trial.suggest_categorical(axis.key, axis.values))))
    return make_cell(sweep.base, settings)
