from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from heads.scoring.floor_scores import parse_floor_files, read_floor_scores

IDS, ALL = ("a.mp4", "b.mp4"), np.array([0, 1])


def test_scores_are_joined_by_id(tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    file.write_text("id,label,probability_mean\nb.mp4,x,0.25\nother.mp4,,0.5\na.mp4,y,1\n")
    found = read_floor_scores(parse_floor_files([f"zero-shot={file}"]), IDS, ALL)
    assert found["zero-shot"].tolist() == [1.0, 0.25]
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")  # as spreadsheets write it
    assert read_floor_scores({"z": file}, IDS, ALL)["z"].tolist() == [1.0, 0.25]
    file.write_text("id,probability\nb.mp4,0.25\na.mp4,\n")  # of predict: a reject has none
    found = read_floor_scores({"z": str(file)}, IDS, ALL[1:])
    assert np.isnan(found["z"][0]) and found["z"][1] == 0.25


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,probability\nb.mp4,0.25\n", "has no score for 1 of 2 videos, such as a.mp4"),
        ("id,probability\na.mp4,1.5\n", "a.mp4 has '1.5', which is no probability"),
        ("id,probability\na.mp4,nan\n", "which is no probability"),
        ("id,score\na.mp4,0.5\n", "needs the column id and one of probability_mean, probability"),
        ("", "needs the column id"),
        ("id,probability\na.mp4,0.5\nb.mp4,0.5\na.mp4,0.6\n", "a.mp4 has two scores, 0.5 and 0.6"),
    ],
)
def test_files_that_are_no_scores(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        read_floor_scores({"z": file}, IDS, ALL)
    with pytest.raises(InputError, match="cannot be read"):
        read_floor_scores({"z": tmp_path / "none.csv"}, IDS, ALL)


@pytest.mark.parametrize("given", [["z"], ["z="], ["mean-pooled=s.csv"], ["z=a.csv", "z=b.csv"]])
def test_names_that_cannot_be(given: list[str]) -> None:
    with pytest.raises(InputError, match="write NAME=FILE"):
        parse_floor_files(given)
