"""How a stored picture is to be shown: turns and mirrorings, from the display matrix that FFmpeg gives with a frame.

Containers (mp4, mov, mkv) carry the matrix; for pictures FFmpeg makes it from the EXIF orientation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type

from pipeline.decoding.frames import RgbFrame

MATRIX = struct.Struct("=9i")
"""libavutil/display.h: nine int32 in the machine's byte order, [a b u, c d v, x y w]; (x', y') = (a x + c y, b x + d y)."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """First rows and columns are exchanged (`transposed`), then rows (`flipped`) and columns (`mirrored`) are turned round."""

    transposed: bool = False
    flipped: bool = False
    mirrored: bool = False

    @property
    def upright(self) -> bool:
        """Whether the picture is shown as it is stored."""
        return self == UPRIGHT

    @classmethod
    def of_matrix(cls, data: bytes) -> Orientation:
        """The nearest of the eight orientations; upright where the matrix is empty or of another length."""
        if len(data) != MATRIX.size:
            return UPRIGHT
        a, b, _, c, d, *_ = MATRIX.unpack(data)
        if not (a or b or c or d):
            return UPRIGHT
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transposed=True, flipped=b < 0, mirrored=c < 0)
        return cls(flipped=d < 0, mirrored=a < 0)

    @classmethod
    def of_frame(cls, frame: Any) -> Orientation:
        """The orientation of a PyAV frame."""
        for side_data in frame.side_data:
            if side_data.type.name == "DISPLAYMATRIX":
                return cls.of_matrix(bytes(side_data))
        return UPRIGHT

    def apply(self, picture: RgbFrame) -> RgbFrame:
        """The picture [H, W, 3] or [H, W] as it is to be shown."""
        if self.upright:
            return picture
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        rows = slice(None, None, -1 if self.flipped else 1)
        columns = slice(None, None, -1 if self.mirrored else 1)
        return np.ascontiguousarray(picture[rows, columns])


UPRIGHT = Orientation()


def _unnamed(cls: type[Type], value: object) -> Type:
    """PyAV names fewer kinds of side data than its FFmpeg gives (EXIF is none of them), and one that it cannot name would make
    all

    of a frame's side data unreadable.
    """
    member = object.__new__(cls)
    member._name_ = f"UNNAMED_{value}"
    member._value_ = value  # type: ignore[assignment]
    return member


Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]
