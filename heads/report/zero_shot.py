"""Scores of videos against words, as a table and, where labels are known, in a few lines."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.fingerprint import is_random, weights_name
from cache.labels.groups import joined_by_copies, source_groups
from cache.schema import UNKNOWN_LABEL
from heads.scoring.calibration import probabilities as as_probabilities
from heads.scoring.evaluate import evaluate

if TYPE_CHECKING:
    from cache.reader import Cache

Float = npt.NDArray[np.float64]
COLUMNS = ("id", "label", "logit_mean", "logit_max", "probability_mean", "probability_max", "weights")
RESAMPLES = 1000
EVEN = 0.5
"""Probability at which both sides are equally near: a threshold that no label chose."""


def score_table(cache: Cache, stream: str, mean: Float, highest: Float) -> bytes:
    """CSV with a row a video. mean, highest: logits over its tokens, float64 [V]; the probabilities are their sigmoids.

    What is NaN, as of a video that lacks the stream, is empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    weights = f"{stream}: {weights_name(cache.streams[stream].fingerprint)}"
    columns = (
        cache.videos.id,
        cache.videos.label_name,
        mean,
        highest,
        as_probabilities(mean),
        as_probabilities(highest),
    )
    for row in zip(*(column.tolist() for column in columns), strict=True):
        writer.writerow((*("" if value != value else value for value in row), weights))
    return text.getvalue().encode("utf-8", "surrogateescape")


def summary_lines(cache: Cache, stream: str, mean: Float, highest: Float) -> list[str]:
    """Which weights, the highest scores, and what the labels say of both scores where both classes are known."""
    fields = cache.streams[stream].fingerprint
    random = "RANDOM weights, the scores carry no meaning: " if is_random(fields) else ""
    there = np.flatnonzero(~np.isnan(mean))
    lines = [
        f"scored     {len(there)} videos by {random}{fields.get('model')}, weights {weights_name(fields)}"
    ]
    if n_absent := len(mean) - len(there):
        lines.append(f"no score   {n_absent} videos, which lack the stream {stream}")
    order = there[np.argsort(-mean[there], kind="stable")[:5]]
    lines += [f"  {mean[i]:+.4f} {cache.videos.id[i]}" for i in order]
    labels = cache.videos.label
    known = there[labels[there] != UNKNOWN_LABEL]
    if len(set(labels[known].tolist())) < 2:
        return [*lines, "labels of both classes are not known, so that nothing measures the scores"]
    own = source_groups(cache.videos.id.tolist(), cache.videos.source.tolist())
    groups = joined_by_copies(own, cache.videos.digest.tolist())
    for name, scores in (("mean over tokens", mean), ("highest token", highest)):
        found = evaluate(
            "zero-shot",
            "all",
            labels[known],
            as_probabilities(scores)[known],
            threshold=EVEN,
            groups=[groups[i] for i in known],
            n_resamples=RESAMPLES,
        )
        interval = found.intervals["auroc"]
        within = f" [{interval.low:.2f}, {interval.high:.2f}]{interval.mark}" if interval else ""
        m = found.metrics
        lines.append(
            f"{name}: AUROC {m.auroc:.3f}{within}, average precision {m.average_precision:.3f}, F1 "
            f"{'undefined' if m.f1 is None else f'{m.f1:.3f}'} where the positive side is nearer ({m.n} labelled videos)"
        )
    return lines
