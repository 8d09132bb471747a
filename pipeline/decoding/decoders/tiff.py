"""TIFF is many formats: what FFmpeg gives of them without a word, though it is not the picture, is found here."""

from __future__ import annotations

from pathlib import Path

from pipeline.decoding.decoders.base import DecodeProblem

COMPRESSION, DNG_VERSION = 259, 50706
JPEG = (6, 7)
"""Values of the compression tag that stand for JPEG (TIFF 6.0, section 22, and its technical note 2)."""


def tiff_note(path: Path) -> str:
    """What a user should know of this file; "" for nothing. Raises DecodeProblem where FFmpeg would give a black picture."""
    from PIL import TiffImagePlugin

    try:
        with TiffImagePlugin.TiffImageFile(path) as image:
            tags = image.tag_v2
            if tags.get(COMPRESSION) in JPEG and DNG_VERSION not in tags:
                raise DecodeProblem(
                    "unreadable-container", "JPEG inside TIFF, which FFmpeg decodes to a black picture"
                )
            n_pages = int(image.n_frames)
    except (OSError, ValueError, SyntaxError, KeyError, EOFError):
        return ""  # not for Pillow: FFmpeg judges
    return f"{n_pages} pages, of which the first was taken" if n_pages > 1 else ""
