"""What a file holds beside its pictures, read once these are decoded: sound and words, each on the pictures' clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.decoding.decode import DecodedVideo, Emit, StreamPlan
from pipeline.decoding.decoders.base import FrameSource

if TYPE_CHECKING:
    from pipeline.decoding.worker import Task


def with_other_media(
    video: DecodedVideo,
    source: FrameSource,
    task: Task,
    plans: Sequence[StreamPlan],
    *,
    emit: Emit,
    beat: Callable[[], None],
) -> DecodedVideo:
    """The video with the streams of sound and of words that its plans ask for, or with why it lacks them.

    source: decoded to its end.
    """
    if any(plan.sound for plan in plans):
        from pipeline.decoding.hearing import with_sound

        first_seconds = source.first_seconds
        video = with_sound(video, Path(task.path), plans, first_seconds=first_seconds, emit=emit, beat=beat)
    return _with_words(video, task, plans, source.first_seconds, beat)


def sound_alone(
    task: Task, plans: Sequence[StreamPlan], *, emit: Emit, beat: Callable[[], None]
) -> DecodedVideo:
    """A file without pictures, by its sound, with its words. Raises DecodeProblem where it cannot be heard."""
    from pipeline.decoding import hearing

    video = hearing.sound_alone(Path(task.path), plans, emit=emit, beat=beat)
    return _with_words(video, task, plans, None, beat)


def _with_words(
    video: DecodedVideo,
    task: Task,
    plans: Sequence[StreamPlan],
    first_seconds: float | None,
    beat: Callable[[], None],
) -> DecodedVideo:
    if not any(plan.words for plan in plans):
        return video
    from pipeline.decoding.reading import with_words

    path, given = Path(task.path), task.transcript
    return with_words(video, path, plans, transcript=given, first_seconds=first_seconds, beat=beat)
