from __future__ import annotations

import numpy as np

from heads.evaluate import WITH_INTERVAL, evaluate


def test_intervals_span_the_metrics() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 2).astype(np.int8)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    found = evaluate(
        "head",
        "val",
        labels,
        scores,
        threshold=0.5,
        groups=[str(i // 2) for i in range(200)],
        n_resamples=200,
    )
    for name in WITH_INTERVAL:
        interval = found.intervals[name]
        assert interval is not None
        assert getattr(found.metrics, name) in interval
        assert interval.n_groups == 100
    assert found.as_dict()["intervals"]["f1"]["n_groups"] == 100
    assert evaluate("head", "val", labels, scores, threshold=0.5, groups=["a"] * 200).intervals["f1"] is None
