"""Two decoders side by side: what they must agree on, and what tells a picture in the wrong place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, FrameRef, open_frames
from pipeline.decoding.decoders.pyav import PyAVFrames
from pipeline.decoding.frames import RgbFrame
from pipeline.decoding.pictures import (
    Opinion,
    compare,
    difference,
    frame_times,
    known_decoder,
    second_opinion,
)
from tests.pipeline.fakes import ListedFrames
from tests.pipeline.fine_colours import PQ, calm_scene, converts_alike, fine_noise, write_pictures
from tests.pipeline.numbered import write_numbered
from tests.videos import write_image


class Calm(ListedFrames):
    """A nearly still scene: neighbouring pictures differ by a hundredth of a grey level on average."""

    def __init__(self, times: Sequence[float], *, shift: int = 0, noise: int = 0) -> None:
        super().__init__(times)
        self._shift, self._noise = shift, noise

    def __iter__(self) -> Iterator[FrameRef]:
        for frame, index in zip(super().__iter__(), range(len(self.times)), strict=True):
            number = max(0, index + self._shift)
            yield FrameRef(frame.pts_seconds, frame.next_pts_seconds, lambda n=number: self.picture(n))  # type: ignore[misc]

    def picture(self, index: int) -> RgbFrame:
        picture = np.random.default_rng(0).integers(0, 200, (60, 80, 3)).astype(np.uint8)
        moved = np.random.default_rng(index + 1).integers(0, picture.size, picture.size // 100)
        picture.reshape(-1)[moved] += 1
        if self._noise:
            picture += np.random.default_rng(99).integers(0, self._noise + 1, picture.shape).astype(np.uint8)
        return picture


TIMES = [n / 10 for n in range(20)]
WANTED = (0, 4, 5, 11, 19)


def test_the_same_is_the_same() -> None:
    assert compare(Calm(TIMES), Calm(TIMES), WANTED) == ("", True)


def test_other_roundings_of_colours_are_the_same_picture() -> None:
    assert compare(Calm(TIMES), Calm(TIMES, noise=2), WANTED) == ("", False)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_picture_that_is_its_neighbour_is_found_in_the_calmest_scene(shift: int) -> None:
    said, equal = compare(Calm(TIMES), Calm(TIMES, shift=shift), WANTED)
    assert "is that of frame" in said and not equal


@pytest.mark.parametrize("shift", [-1, 1])
def test_another_conversion_that_fits_worse_is_not_asked(shift: int) -> None:
    """An OpenCV of another age may convert otherwise than it is thought to."""

    class Guessed(Calm):
        def __iter__(self) -> Iterator[FrameRef]:
            for frame in super().__iter__():
                noise = np.random.default_rng(7).integers(0, 4, (60, 80, 3)).astype(np.uint8)
                guess = frame.rgb() + noise
                yield replace(frame, rgb_as=lambda other, guess=guess: guess)  # type: ignore[misc]

    assert compare(Guessed(TIMES), Calm(TIMES, noise=1), WANTED) == ("", False)
    assert "is that of frame" in compare(Guessed(TIMES, shift=shift), Calm(TIMES), WANTED)[0]
    assert "is that of frame" in compare(Calm(TIMES, shift=shift), Guessed(TIMES), WANTED)[0]


def test_times_and_counts_must_agree() -> None:
    assert (
        "frame 3 is at 0.310 s, not at 0.300 s"
        in compare(Calm(TIMES), Calm([*TIMES[:3], 0.31, *TIMES[4:]]), ())[0]
    )
    assert "fewer" in compare(Calm(TIMES), Calm(TIMES[:-2]), ())[0]
    assert "more" in compare(Calm(TIMES[:-2]), Calm(TIMES), ())[0]


def test_a_decoder_that_finds_damage_later_on_is_unsure_all_the_same() -> None:
    """What a source counts is complete at its end, which lies behind the first difference."""

    class Damaged(Calm):
        def __iter__(self) -> Iterator[FrameRef]:
            yield from super().__iter__()
            self.n_errors += 1

    second = Damaged([*TIMES[:3], 0.31, *TIMES[4:]])
    assert compare(Calm(TIMES), second, ())[0]
    assert second.n_errors == 1


@pytest.mark.parametrize(("decoder", "other"), [("pyav", "opencv"), ("decord", "pyav"), ("opencv", "pyav")])
def test_another_decoder_is_asked(decoder: DecoderName, other: str, tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", n_frames=20, b_frames=2)
    opinion = second_opinion(path, decoder, range(20), still=False)
    assert opinion == (Opinion(other, True), False, "")  # type: ignore[arg-type]
    assert len(frame_times(path, decoder).times) == 20


def test_pillow_is_asked_of_pictures(tmp_path: Path) -> None:
    found = second_opinion(write_image(tmp_path / "a.png"), "pyav", (0,), still=True)
    assert found == (Opinion("pillow", True), False, "")


def test_nobody_agrees_on_what_nobody_else_reads(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.avi", n_frames=20)
    opinion, disagreed, said = second_opinion(path, "pyav", (0,), still=False)
    assert opinion is None and not disagreed
    assert "opencv: opencv is not used for avi files" in said
    assert "decord: decord is not used for avi files" in said


class Moved(PyAVFrames):
    """Every picture stands `shift` places from its own."""

    shift = 0

    def __iter__(self) -> Iterator[FrameRef]:
        kept = []
        for frame in super().__iter__():
            ways = {name: frame.rgb_as(name) for name in ("opencv", "decord")}
            kept.append((frame.pts_seconds, frame.next_pts_seconds, frame.rgb(), ways))
        for number, (pts, following, _, _) in enumerate(kept):
            _, _, rgb, ways = kept[min(max(0, number + self.shift), len(kept) - 1)]
            yield FrameRef(pts, following, partial(np.copy, rgb), rgb_as=ways.get)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "params", "other"),
    [
        pytest.param("libx264", "yuv420p10le", "", "opencv", marks=converts_alike),
        pytest.param("libx264", "yuv422p10le", "", "opencv", marks=converts_alike),
        pytest.param("libx265", "yuv420p10le", "", "opencv", marks=converts_alike),
        pytest.param("libx265", "yuv422p12le", "", "opencv", marks=converts_alike),
        ("libx264", "yuv420p10le", PQ, "decord"),
        ("libx264", "yuv420p10le", "tff=1", "decord"),
        ("libx264", "yuv420p", "tff=1", "decord"),
    ],
)
def test_colours_as_fine_as_noise_are_the_same_picture(
    codec: str, pix_fmt: str, params: str, other: str, tmp_path: Path
) -> None:
    """Each decoder has chroma scaled with another filter; what was decoded is the same."""
    path = write_pictures(tmp_path / "a.mp4", fine_noise(), codec=codec, pix_fmt=pix_fmt, params=params)
    assert second_opinion(path, "pyav", range(6), still=False) == (Opinion(other, False), False, "")  # type: ignore[arg-type]
    found = second_opinion(path, other, range(6), still=False)  # type: ignore[arg-type]
    assert found == (Opinion("pyav", False), False, "")


@pytest.mark.parametrize("other", [pytest.param("opencv", marks=converts_alike), "decord"])
@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("scene", [calm_scene, fine_noise])
def test_a_picture_of_10_bits_in_the_wrong_place_is_found(
    scene: Callable[[], list[RgbFrame]], shift: int, other: DecoderName, tmp_path: Path
) -> None:
    """In the calm scene neighbours differ by less than a third of what the conversions do."""
    path = write_pictures(tmp_path / "a.mp4", scene())
    with closing(open_frames(path, "pyav")) as one, closing(open_frames(path, other)) as two:
        ours, theirs = ([frame.rgb().copy() for frame in source] for source in (one, two))
    if scene is calm_scene:
        assert max(difference(*pair) for pair in pairwise(ours)) < difference(ours[2], theirs[2]) / 3
    for moved, due in ((0, ""), (shift, "is that of frame" if scene is calm_scene else "another picture")):
        with closing(Moved(path)) as first, closing(open_frames(path, other)) as second:
            first.shift = moved
            said, _ = compare(first, second, (2, 3))
            assert due in said and bool(due) == bool(said)
        with closing(open_frames(path, other)) as first_, closing(Moved(path)) as second_:
            second_.shift = moved
            said, _ = compare(first_, second_, (2, 3))
            assert due in said and bool(due) == bool(said)


def test_another_picture_of_10_bits_is_found(tmp_path: Path) -> None:
    a = write_pictures(tmp_path / "a.mp4", fine_noise())
    b = write_pictures(tmp_path / "b.mp4", fine_noise(seed=1))
    with closing(open_frames(a, "pyav")) as first, closing(open_frames(b, "opencv")) as second:
        assert compare(first, second, (0,))[0] == "another picture in frame 0, at 0.000 s"


def pale(rgb: RgbFrame) -> RgbFrame:
    """Limited range taken for full."""
    return np.rint(rgb * (219 / 255) + 16).astype(np.uint8)


def other_matrix(rgb: RgbFrame) -> RgbFrame:
    """BT.601 taken for BT.709."""
    right, wrong = ((1 - 0.299, 1 - 0.114), (1 - 0.2126, 1 - 0.0722))
    r, g, b = np.moveaxis(rgb.astype(np.float64), 2, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    red = luma + (r - luma) * wrong[0] / right[0]
    blue = luma + (b - luma) * wrong[1] / right[1]
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.clip(np.rint(np.stack([red, green, blue], axis=-1)), 0, 255).astype(np.uint8)


def colourless(rgb: RgbFrame) -> RgbFrame:
    """Chroma lost; the grey of it is the same."""
    return np.repeat((rgb @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("scene", "spoil"),
    [
        (calm_scene, pale),
        pytest.param(fine_noise, pale, marks=converts_alike),
        (calm_scene, other_matrix),
        (calm_scene, colourless),
    ],
)
def test_other_colours_are_found(
    scene: Callable[[], list[RgbFrame]], spoil: Callable[[RgbFrame], RgbFrame], tmp_path: Path
) -> None:
    """Converted alike the pictures are equal; what was stored is not."""

    class Wrong(PyAVFrames):
        def __iter__(self) -> Iterator[FrameRef]:
            for frame in super().__iter__():
                picture = spoil(frame.rgb())
                yield FrameRef(
                    frame.pts_seconds, frame.next_pts_seconds, partial(np.copy, picture), rgb_as=frame.rgb_as
                )

    path = write_pictures(tmp_path / "a.mp4", scene())
    with closing(Wrong(path)) as first, closing(open_frames(path, "opencv")) as second:
        assert compare(first, second, (2,))[0] == "other colours in frame 2, at 0.200 s"


def test_a_fade_of_10_bits_is_no_wrong_place(tmp_path: Path) -> None:
    """The conversions differ by as much as a picture does from the next one."""
    pictures = [np.full((64, 96, 3), 100 + n, np.uint8) for n in range(10)]
    path = write_pictures(tmp_path / "a.mp4", pictures)
    assert second_opinion(path, "pyav", range(10), still=False) == (Opinion("opencv", False), False, "")


def test_a_decoder_that_gives_no_picture_does_not_disagree(tmp_path: Path) -> None:
    """OpenCV opens AV1 and, as it is built, decodes none of it."""
    path = write_numbered(tmp_path / "a.mp4", codec="libsvtav1", n_frames=5)
    opinion, disagreed, said = second_opinion(path, "pyav", range(5), still=False)
    assert not disagreed
    assert opinion is not None or "opencv: it opens the file and gives no picture; decord: " in said
    assert "video_reader" not in said  # decord's own words, not its line of C++


def test_an_unknown_decoder_is_named() -> None:
    with pytest.raises(DecodeProblem, match="stored with decoder 'imported'"):
        known_decoder("imported")
