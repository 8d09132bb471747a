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
    path, first_seconds = Path(task.path), source.first_seconds
    if any(plan.sound for plan in plans):
        from pipeline.decoding.hearing import with_sound

        video = with_sound(video, path, plans, first_seconds=first_seconds, emit=emit, beat=beat)
    if any(plan.words for plan in plans):
        from pipeline.decoding.reading import with_words

        given = task.transcript
        video = with_words(video, path, plans, transcript=given, first_seconds=first_seconds, beat=beat)
    return video
