"""Heads trained on the processor and on the device, in turns: seconds an epoch, the scores of both, the same bits twice."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_steps.day import Day

MODELS: dict[str, dict[str, Any]] = {
    "attention-pool": {},
    "mlp": {"model": "mlp"},
    "transformer-256": {"model": "transformer", "width": 256},
    "transformer": {"model": "transformer", "batch_size": 64},
    "conv": {"model": "conv"},
}
EPOCHS = 2


def heads(day: Day) -> dict[str, Any]:
    """2,000 made-up videos, as in benchmarks/head_epoch.py."""
    import torch
    from sweep import make_cache

    from cache.reader import open_cache
    from heads.data.dataset import load_dataset
    from heads.data.splits import choose_split
    from heads.training.config import TrainConfig
    from heads.training.fit import fit, predict_logits

    found: dict[str, Any] = {}
    path = Path(tempfile.mkdtemp(dir=day.work, prefix="heads-")) / "heads.zarr"
    make_cache(path, **({"n_train": 40, "n_val": 20} if day.args.tiny else {}))
    turns = ["cuda", "cpu", "cuda"] if day.cuda else ["cpu", "cpu"]
    with open_cache(path) as cache:
        for name, settings in list(MODELS.items())[: 1 if day.args.tiny else None]:
            config = TrainConfig().updated({"epochs": EPOCHS, "n_resamples": 0, **settings})
            data = load_dataset(cache, separate_streams=config.model.separate_streams, config=config.data)
            split = choose_split(data.labels, data.splits, data.groups)
            row: dict[str, Any] = {}
            kept: dict[str, list[Any]] = {}
            for device in turns:
                began = time.perf_counter()
                result = fit(
                    data.tokens,
                    data.labels,
                    train=split.train,
                    val=split.val,
                    stream_dims=data.stream_dims,
                    config=config,
                    device=torch.device(device),
                )
                row.setdefault(f"{device}_s_an_epoch", []).append((time.perf_counter() - began) / EPOCHS)
                row[f"{device}_auroc"] = result.history[-1].auroc
                kept.setdefault(device, []).append(result.model)
            states = [model.state_dict() for model in kept[turns[0]]]
            row[f"{turns[0]}_bits_again"] = all(states[0][key].equal(states[1][key]) for key in states[0])
            logits = [predict_logits(models[0], data.tokens, split.val) for models in kept.values()]
            row["largest_difference_of_logits"] = float(abs(logits[0] - logits[-1]).max())
            found[name] = row
            day.keep("heads", found)
            gc.collect()
    return found
