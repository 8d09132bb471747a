"""Which file names are those of a video, an image or sound: the one list of suffixes, and names without them."""

from __future__ import annotations

import os
import re
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".insv", ".mj2", ".3gp", ".3g2", ".f4v"),
        *(".avi", ".divx", ".mkv", ".mk3d", ".webm", ".ogv", ".ogm", ".nut"),
        *(".mpeg", ".mpg", ".mpe", ".m1v", ".m2v", ".vob", ".mod", ".tod"),
        *(".ts", ".m2ts", ".mts", ".m2t", ".tp", ".trp", ".wtv"),
        *(".wmv", ".asf", ".dvr-ms", ".flv", ".rm", ".rmvb"),
        *(".dav", ".dv", ".mxf", ".gxf", ".mjpeg", ".mjpg", ".ivf", ".obu", ".y4m"),
        *(".h264", ".264", ".avc", ".h265", ".265", ".hevc"),
        *(".gif", ".apng"),
    }
)
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif"}
)
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
"""Lower-case suffixes of input files."""
SOUND_SUFFIXES = frozenset(
    {
        *(".wav", ".w64", ".bwf", ".aif", ".aiff", ".aifc", ".caf", ".au", ".flac", ".wv"),
        *(".mp3", ".mp2", ".mpa", ".m4a", ".m4b", ".aac", ".ac3", ".eac3", ".dts"),
        *(".ogg", ".oga", ".opus", ".spx", ".mka", ".weba", ".wma", ".amr", ".ra"),
    }
)
"""Of files that are input where no stream of pictures is required."""

_EITHER_SUFFIXES = frozenset({".gif", ".apng"})

_TIME_SPAN = re.compile(r"_\d+\.\d+_\d+\.\d+$")


def without_suffix(name: str) -> str:
    """The name of a file without the suffix of a video, image or sound, if it has one.

    These are the only suffixes that are no part of a clip id (".0" of `V_1_4.0` is).

    `.264` and `.265` are also how a clip id may end (`V_1_0.0_4.264`): they stay where they end a time span.
    """
    base, dot, suffix = name.rpartition(".")
    if not dot or not base or f".{suffix.lower()}" not in MEDIA_SUFFIXES | SOUND_SUFFIXES:
        return name
    return name if suffix.isdigit() and _TIME_SPAN.search(name) else base.rstrip()


def has_media_suffix(name: str) -> bool:
    """Whether the name is one of a video, image or sound file."""
    return without_suffix(name) != name


def named_as_video(path: Path) -> bool:
    """Whether the name is one of a video, and no name that a single picture has as well."""
    return path.suffix.lower() in VIDEO_SUFFIXES - _EITHER_SUFFIXES


def utf8_path(folder: Path, name: str) -> Path:
    """The file below `folder` whose name is `name` as UTF-8 bytes, whatever the locale makes of them."""
    return folder / os.fsdecode(name.encode("utf-8"))
