"""A small picture of a video: its middle frame, read with PyAV."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

LONG_SIDE = 240
"""Pixels of the longer side of a thumbnail."""

JPEG_QUALITY = 80


def middle_frame_jpeg(path: Path, *, long_side: int = LONG_SIDE) -> bytes | None:
    """The frame at half of the declared duration as JPEG, upright; None when no frame can be read.

    Decoding starts at the key frame before the middle. Where the container declares no duration, or nothing
    decodes from there, it is the first frame.
    """
    import av
    import av.error
    import av.logging
    from PIL import Image

    previous = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return None
            frame = _middle_frame(container)
            if frame is None:
                return None
            picture: Image.Image = frame.to_image()
            picture = picture.rotate(getattr(frame, "rotation", 0), expand=True)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError):
        return None
    finally:
        av.logging.set_level(previous)
    picture.thumbnail((long_side, long_side))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _middle_frame(container: Any) -> Any:
    """A decoded frame at or after the middle, the last before it, or the first."""
    import av.error

    middle_seconds = container.duration / 2 / 1_000_000 if container.duration else 0.0
    if middle_seconds > 0:
        begin = container.start_time or 0
        try:
            container.seek(begin + int(middle_seconds * 1_000_000))
            last = None
            for frame in container.decode(video=0):
                last = frame
                if frame.time is None or frame.time >= begin / 1_000_000 + middle_seconds:
                    break
            if last is not None:
                return last
        except av.error.FFmpegError:
            pass
        container.seek(begin)
    return next(container.decode(video=0), None)
