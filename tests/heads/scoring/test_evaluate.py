from __future__ import annotations

import numpy as np

from heads.scoring.evaluate import WITH_INTERVAL, Evaluation, evaluate


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


def test_thresholds_of_each_video_have_intervals_too() -> None:
    rng = np.random.default_rng(1)
    labels = (np.arange(60) % 2).astype(np.int8)
    scores = rng.random(60)
    groups = [str(i // 3) for i in range(60)]

    def found(threshold: float | np.ndarray[tuple[int], np.dtype[np.float64]]) -> Evaluation:
        return evaluate(
            "head", "out-of-fold", labels, scores, threshold=threshold, groups=groups, n_resamples=50
        )

    one, alike = found(0.4), found(np.full(60, 0.4))
    assert alike.metrics.f1 == one.metrics.f1
    assert alike.intervals == one.intervals
    everything = found(np.where(labels == 1, 0.0, 1.0))
    assert everything.metrics.f1 == 1
    assert everything.intervals["f1"] is not None
    assert everything.intervals["f1"].low == 1
    assert everything.as_dict()["metrics"]["threshold"] is None
