"""The worst mistakes of a head: most confidently wrong first, with a picture and the score over time."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.labels.media import utf8_path
from heads.report.thumbnails import middle_frame_jpeg
from heads.trained.head import TrainedHead
from heads.trained.record import PredictionTable
from heads.trained.timeline import Timeline, choose_method, score_over_time

if TYPE_CHECKING:
    from cache.reader import Cache

N_MISTAKES = 24
"""Mistakes that a report shows in full."""

MOST_WINDOWS = 200
"""Windows in one chart; of longer videos, neighbours are drawn as one at their highest score."""

CHART_WIDTH, CHART_HEIGHT, LEFT, BOTTOM, TOP = 300.0, 96.0, 26.0, 26.0, 6.0


@dataclass(frozen=True, slots=True)
class Mistake:
    """One video on the wrong side of the threshold.

    kind: "false alarm" or "missed". picture: a JPEG data URI, or None with the reason in no_picture.
    chart: the score over time as SVG, or None without a cache.
    """

    id: str
    group: str
    kind: str
    label: str
    decision: str
    probability: float
    picture: str | None
    no_picture: str
    chart: str | None


def mistaken_rows(table: PredictionTable, part: str, *, threshold: float) -> npt.NDArray[np.int64]:
    """Rows of `part` that are decided wrongly, the lowest probability of the true label first."""
    rows = table.rows_of(part)
    positive = table.labels[rows] == 1
    scores = table.probabilities[rows]
    wrong = (scores >= threshold) != positive
    of_truth = np.where(positive, scores, 1.0 - scores)
    order = np.argsort(of_truth[wrong], kind="stable")
    found: npt.NDArray[np.int64] = rows[wrong][order]
    return found


def describe_mistakes(
    head: TrainedHead,
    table: PredictionTable,
    rows: npt.NDArray[np.int64],
    *,
    cache: Cache | None,
    src: Path | None,
) -> list[Mistake]:
    """The given rows of `table`, in that order. src: root that the ids are relative to."""
    charts = _charts(head, [table.ids[row] for row in rows], cache) if cache is not None else {}
    threshold = head.info.threshold.threshold
    mistakes = []
    for row in rows:
        video_id, positive = table.ids[row], bool(table.labels[row] == 1)
        picture, missing = _picture(video_id, src)
        probability = float(table.probabilities[row])
        mistakes.append(
            Mistake(
                id=video_id,
                group=table.groups[row],
                kind="missed" if positive else "false alarm",
                label=head.info.label_names[int(positive)],
                decision=head.info.label_names[int(probability >= threshold)],
                probability=probability,
                picture=picture,
                no_picture=missing,
                chart=charts.get(video_id),
            )
        )
    return mistakes


def _picture(video_id: str, src: Path | None) -> tuple[str | None, str]:
    if src is None:
        return None, "no picture: train-head --src DIR shows them"
    path = utf8_path(src, video_id)
    if ".." in path.parts or not path.is_relative_to(src) or not path.is_file():
        return None, "no picture: the file is not under --src"
    jpeg = middle_frame_jpeg(path)
    if jpeg is None:
        return None, "no picture: no frame could be read"
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}", ""


def _charts(head: TrainedHead, ids: list[str], cache: Cache) -> dict[str, str]:
    """SVG by id: the sliding score, with attention below it where the head has attention pooling."""
    number = {str(video_id): index for index, video_id in enumerate(cache.videos.id)}
    videos = [number[video_id] for video_id in ids]
    charts = {}
    sliding = score_over_time(head, cache, videos=videos, method="sliding", ignore_libraries=True)
    if choose_method(head) == "attention":
        looked = score_over_time(head, cache, videos=videos, method="attention", ignore_libraries=True)
        for scores, attention in zip(sliding, looked, strict=True):
            charts[scores.id] = timeline_svg(scores, head.info.threshold.threshold, attention=attention)
    else:
        charts = {s.id: timeline_svg(s, head.info.threshold.threshold) for s in sliding}
    return charts


def timeline_svg(scores: Timeline, threshold: float, *, attention: Timeline | None = None) -> str:
    """A bar from start to end of every window at its probability, 0 to 1; the threshold is dashed.

    The strip below is darker where the head's attention was (darkest at the largest share).
    """
    together = -(-len(scores) // MOST_WINDOWS)
    scores = _coarser(scores, together)
    attention = attention and _coarser(attention, together)
    begin, end = float(scores.spans[:, 0].min()), float(scores.spans[:, 1].max())
    seconds = max(end - begin, 1e-3)
    strip = 8.0 if attention is not None else 0.0
    bottom = CHART_HEIGHT - BOTTOM - strip

    def x(at: float) -> float:
        return LEFT + (at - begin) / seconds * (CHART_WIDTH - LEFT - 4)

    def y(score: float) -> float:
        return TOP + (1 - score) * (bottom - TOP)

    parts = [
        f'<rect x="{LEFT:g}" y="{TOP:g}" width="{CHART_WIDTH - LEFT - 4:g}" height="{bottom - TOP:g}" '
        'fill="none" stroke="#bbb"/>'
    ]
    for (start, stop), score in zip(scores.spans.tolist(), scores.scores.tolist(), strict=True):
        width = max(x(stop) - x(start), 2.0)
        colour = "#d55e00" if score >= threshold else "#0072b2"
        parts.append(
            f'<rect x="{x(start):.1f}" y="{y(score):.1f}" width="{width:.1f}" '
            f'height="{y(0) - y(score):.1f}" fill="{colour}" fill-opacity="0.22"/>'
            f'<line x1="{x(start):.1f}" x2="{x(start) + width:.1f}" y1="{y(score):.1f}" '
            f'y2="{y(score):.1f}" stroke="{colour}" stroke-width="2.5"/>'
        )
    parts.append(
        f'<line x1="{LEFT:g}" x2="{CHART_WIDTH - 4:g}" y1="{y(threshold):.1f}" y2="{y(threshold):.1f}" '
        'stroke="#222" stroke-dasharray="4 3"/>'
    )
    if attention is not None:
        most = float(attention.scores.max())
        for (start, stop), share in zip(attention.spans.tolist(), attention.scores.tolist(), strict=True):
            parts.append(
                f'<rect x="{x(start):.1f}" y="{bottom + 2:g}" width="{max(x(stop) - x(start), 2.0):.1f}" '
                f'height="{strip - 2:g}" fill="#aa4499" fill-opacity="{share / most:.3f}"/>'
            )
    for text, at, anchor in ((f"{begin:.1f} s", LEFT, "start"), (f"{end:.1f} s", CHART_WIDTH - 4, "end")):
        parts.append(f'<text x="{at:g}" y="{CHART_HEIGHT - 10:g}" text-anchor="{anchor}">{text}</text>')
    for text, score in (("1", 1.0), ("0", 0.0)):
        parts.append(f'<text x="{LEFT - 5:g}" y="{y(score) + 4:.1f}" text-anchor="end">{text}</text>')
    shown = ", ".join(f"{score:.2f}" for score in scores.scores[:20].tolist())
    drawn = f", each the highest of {together}" if together > 1 else ""
    title = f"<title>{len(scores)} windows{drawn}: {shown}{', ...' if len(scores) > 20 else ''}</title>"
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH:g} {CHART_HEIGHT:g}" width="{CHART_WIDTH:g}" '
        f'height="{CHART_HEIGHT:g}" role="img">{title}{"".join(parts)}</svg>'
    )


def _coarser(timeline: Timeline, together: int) -> Timeline:
    """Every `together` neighbouring windows as one, at their highest score."""
    if together == 1:
        return timeline
    first = np.arange(0, len(timeline), together)
    spans = np.stack(
        [
            np.minimum.reduceat(timeline.spans[:, 0], first),
            np.maximum.reduceat(timeline.spans[:, 1], first),
        ],
        axis=1,
    )
    scores = np.maximum.reduceat(timeline.scores, first)
    return Timeline(timeline.id, timeline.method, spans, scores, timeline.probability)
