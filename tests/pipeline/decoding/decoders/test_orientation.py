"""All eight ways in which a stored picture may be meant, from EXIF and from the display matrix of a video."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.decoding.decoders.base import DecodeProblem, open_frames
from pipeline.decoding.decoders.orientation import UPRIGHT, Orientation
from tests.videos import set_matrix, write_video

ONE = 1 << 16
MATRICES = {
    "upright": (ONE, 0, 0, ONE),
    "mirrored": (-ONE, 0, 0, ONE),
    "half a turn": (-ONE, 0, 0, -ONE),
    "upside down": (ONE, 0, 0, -ONE),
    "transposed": (0, ONE, ONE, 0),
    "clockwise": (0, ONE, -ONE, 0),
    "transversed": (0, -ONE, -ONE, 0),
    "counterclockwise": (0, -ONE, ONE, 0),
}
"""(a, b, c, d) of the display matrix, in the order of the EXIF values 1 to 8."""


def shown(stored: NDArray[np.uint8], exif: int) -> NDArray[np.uint8]:
    """What Pillow makes of the picture with this EXIF orientation."""
    image = Image.fromarray(stored)
    tags = Image.Exif()
    tags[0x0112] = exif
    image.info["exif"] = tags.tobytes()
    return np.asarray(ImageOps.exif_transpose(image))


def first_picture(path: Path) -> NDArray[np.uint8]:
    source = open_frames(path, "pyav")
    picture = next(iter(source)).rgb().copy()
    source.close()
    return picture


@pytest.mark.parametrize(("exif", "name"), list(enumerate(MATRICES, start=1)))
def test_a_matrix_means_what_exif_means(exif: int, name: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    a, b, c, d = MATRICES[name]
    orientation = Orientation.of_matrix(struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    np.testing.assert_array_equal(orientation.apply(stored), shown(stored, exif))
    assert orientation.upright == (exif == 1)


def test_what_is_no_matrix_turns_nothing() -> None:
    assert Orientation.of_matrix(b"") == UPRIGHT
    assert Orientation.of_matrix(bytes(36)) == UPRIGHT


@pytest.mark.parametrize("exif", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_are_shown_as_exif_says(suffix: str, exif: int, tmp_path: Path) -> None:
    grey = (np.arange(12).reshape(3, 4, 1) * 20 + np.zeros((1, 1, 3))).astype(np.uint8)
    stored = grey.repeat(16, 0).repeat(16, 1)
    tags = Image.Exif()
    tags[0x0112] = exif
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(stored).save(path, exif=tags)
    expected = shown(stored, exif)
    found = first_picture(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize(("exif", "name"), list(enumerate(MATRICES, start=1)))
def test_videos_are_shown_as_their_matrix_says(exif: int, name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=0.3)
    stored = first_picture(path)
    set_matrix(path, *MATRICES[name])
    np.testing.assert_array_equal(first_picture(path), shown(stored, exif))
    if exif != 1:
        with pytest.raises(DecodeProblem, match="turned or mirrored"):
            open_frames(path, "opencv")
