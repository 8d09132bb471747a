"""Two decoders side by side: what they must agree on, and what tells a picture in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, FrameRef
from pipeline.decoding.frames import RgbFrame
from pipeline.decoding.pictures import Opinion, compare, frame_times, known_decoder, second_opinion
from tests.pipeline.fakes import ListedFrames
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
