from __future__ import annotations

import numpy as np
import pytest

from cache.reader import Cache
from heads.data.dataset import load_dataset
from heads.data.splits import choose_split
from heads.scoring.calibration import fit_temperature, probabilities
from heads.scoring.thresholds import choose_threshold
from heads.training.config import TrainConfig
from heads.training.decide import score_rows
from heads.training.fit import fit, predict_logits


@pytest.mark.parametrize("calibration", ["temperature", "none"])
def test_val_alone_gives_temperature_and_threshold(
    toy_cache: Cache, quick: TrainConfig, calibration: str
) -> None:
    config = quick.updated({"epochs": 1, "calibration": calibration})
    data = load_dataset(toy_cache, separate_streams=False)
    whole = choose_split(data.labels, data.splits, data.groups)
    train, held_out, val = whole.train, whole.val[::2], whole.val[1::2]
    result = fit(data.tokens, data.labels, train=train, val=val, stream_dims=data.stream_dims, config=config)
    found = score_rows(data, config, result, val=val[::-1], rows=held_out)
    logits = predict_logits(result.model, data.tokens, val)
    temperature = (
        fit_temperature(logits, data.labels[val]).temperature if calibration == "temperature" else 1.0
    )
    assert found.decision.temperature == temperature
    scores = probabilities(logits, temperature=temperature)
    assert found.decision.choice == choose_threshold(data.labels[val], scores, config=config.threshold)
    expected = probabilities(predict_logits(result.model, data.tokens, held_out), temperature=temperature)
    np.testing.assert_array_equal(found.probabilities, expected)
    on_val = score_rows(data, config, result, val=val, rows=val)
    np.testing.assert_array_equal(on_val.probabilities, scores)
    assert on_val.decision.choice == found.decision.choice
