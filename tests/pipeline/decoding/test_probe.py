"""The classic quick probe: opens, has frames, first, middle and last can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.probe import probe_file
from tests.videos import BROKEN_FILES, GOOD_FILES, truncate, write_video

LAST_FRAME_IS_MISSING = {"over_reporting.mp4"}
"""The header declares what the file does not hold. The probe warns; the decode stores what is there."""


@pytest.mark.parametrize("name", GOOD_FILES)
def test_good_files_pass(name: str, media: Path) -> None:
    if name in LAST_FRAME_IS_MISSING:
        with pytest.raises(DecodeProblem, match="frame is missing"):
            probe_file(media / name)
    else:
        assert probe_file(media / name).duration_seconds >= 0


@pytest.mark.parametrize("name", sorted(set(BROKEN_FILES) - {"empty.mp4"}))
def test_broken_files_have_the_reason_that_the_decode_gives(name: str, media: Path) -> None:
    with pytest.raises(DecodeProblem) as caught:
        probe_file(media / name)
    assert caught.value.reason in BROKEN_FILES[name][1]


@pytest.mark.parametrize("fraction", [0.4, 0.7, 0.9])
def test_a_cut_file_with_its_index_in_front_lacks_its_last_frame(fraction: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", seconds=4, faststart=True)
    assert probe_file(path).duration_seconds == pytest.approx(4.0)
    with pytest.raises(DecodeProblem) as caught:
        probe_file(truncate(path, fraction=fraction))
    assert caught.value.reason in ("decode-errors", "no-frames")


def test_what_the_header_declares_is_told(tmp_path: Path) -> None:
    declared = probe_file(write_video(tmp_path / "a.mp4", seconds=2, fps=25))
    assert (declared.n_frames, declared.fps, declared.duration_seconds) == (50, 25.0, pytest.approx(2.0))
