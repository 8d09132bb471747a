"""Which column of a label file names the videos, and by which rule."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from cache.errors import LabelError
from cache.labels.join import LabelJoin, label_videos
from cache.labels.keys import Finder

NUMBERED = ["Fight/1.mp4", "Fight/2.mp4", "NonFight/3.mp4"]


def _join(folder: Path, ids: list[str], content: str, name: str = "labels.csv") -> LabelJoin:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return label_videos(ids, labels_file=path, positive=None, allow_unmatched=False)


def _rows(header: str, rows: list[tuple[str, ...]], form: str) -> str:
    if form == "csv":
        return "\n".join([header, *map(",".join, rows)])
    items = [dict(zip(header.split(","), row, strict=True)) for row in rows]
    return json.dumps(items) if form == "json" else "\n".join(map(json.dumps, items))


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
@pytest.mark.parametrize(
    "header", ["id,filename,label", "video_id,File Name,class", "id,path,label", "key,name,label"]
)
def test_file_names_win_over_running_numbers(tmp_path: Path, header: str, form: str) -> None:
    rows = [("1", "3.mp4", "NonFight"), ("2", "1.mp4", "Fight"), ("3", "2.mp4", "Fight")]
    join = _join(tmp_path, NUMBERED, _rows(header, rows, form), f"labels.{form}")
    assert {video_id: label.label_name for video_id, label in join.matched.items()} == {
        **dict.fromkeys(NUMBERED[:2], "Fight"),
        NUMBERED[2]: "NonFight",
    }
    column = header.split(",")[1].lower().replace(" ", "_")
    assert (
        f"  joined by column '{column}': 3 by file name; e.g. '2.mp4' -> Fight/2.mp4; not read: "
        in join.report()[1]
    )


def test_a_json_key_is_a_column_like_any_other(tmp_path: Path) -> None:
    content = json.dumps({"1": {"path": "3.mp4", "label": 0}, "2": {"path": "1.mp4", "label": 1}})
    join = _join(tmp_path, ["1.mp4", "3.mp4"], content, "labels.json")
    assert {video_id: label.label for video_id, label in join.matched.items()} == {"3.mp4": 0, "1.mp4": 1}


def test_numbers_alone_join_and_say_so(tmp_path: Path) -> None:
    join = _join(tmp_path, NUMBERED, "id,label\n1,Fight\n2,Fight\n3,NonFight\n")
    assert join.report()[1] == "  joined by column 'id': 3 by number as stem; e.g. '3' -> NonFight/3.mp4"


@pytest.mark.parametrize(
    ("ids", "content", "message"),
    [
        (
            ["a.mp4", "b.mp4"],
            "video,clip,label\na,b,Fight\nb,a,NonFight\n",
            r"line 2: column 'video' \('a'\) means a.mp4 but column 'clip' \('b'\) means b.mp4; keep",
        ),
        (
            ["1.mp4", "2.mp4"],
            "id,name,label\n1,2,Fight\n2,1,NonFight\n",
            "column 'name' .* means 2.mp4 but column 'id'",
        ),
        (
            ["1.mp4", "2.mp4"],
            "id,video_url,label\n1,http://x/2.mp4,Fight\n2,http://x/1.mp4,NonFight\n",
            "column 'id' .* means 1.mp4 but column 'video_url' .* means 2.mp4",
        ),
        (
            ["1.mp4", "2.mp4"],
            "id,source,label\n1,2.mp4,Fight\n2,1.mp4,NonFight\n",
            "column 'id' .* means 1.mp4 but column 'source'",
        ),
        (
            ["1.mp4", "2.mp4"],
            "id,filename,label\n1,x.mp4,Fight\n2,y.mp4,NonFight\n",
            r"column 'filename' names files of which none is here \('x.mp4'\), only the bare numbers of column 'id'",
        ),
        (["a.mp4"], "id,label\nzz,Fight\n", "no label matched any video by column 'id'; keys must be"),
        (["a.mp4"], "id,name,label\nzz,yy,Fight\n", "no label matched any video by column 'name' and 'id'"),
        (["dogs/1.mp4"], "path,label\ncats/1.mp4,Fight\n", "no label matched any video by column 'path'"),
        (
            ["NonFight/a.mp4"],
            "path,label\nFight/a.mp4,Fight\n",
            "no label matched any video by column 'path'",
        ),
        (["val/Fight/a.mp4"], "path,label\ntrain/Fight/a.mp4,Fight\n", "no label matched any video"),
    ],
)
def test_what_is_refused(tmp_path: Path, ids: list[str], content: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        _join(tmp_path, ids, content)


def test_columns_that_mean_the_same_videos_are_one(tmp_path: Path) -> None:
    ids = ["Fight/a.mp4", "NonFight/b.mp4"]
    rows = "a,Fight/a.mp4,Fight\nb,NonFight/b.mp4,NonFight\n"
    join = _join(tmp_path, ids, f"clip,path,label\n{rows}")
    assert join.report()[1].startswith("  joined by column 'path': 2 by exact path;")
    rows = "a,,Fight\n,NonFight/b.mp4,NonFight\n"
    assert len(_join(tmp_path, ids, f"clip,path,label\n{rows}").matched) == 2


def test_a_description_beside_the_id_is_no_key(tmp_path: Path) -> None:
    join = _join(tmp_path, ["1.mp4", "2.mp4"], "id,name,label\n1,two men,Fight\n2,a walk,NonFight\n")
    assert "joined by column 'id': 2 by number as stem" in join.report()[1]


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("train/Fight/V_1.mp4", "exact path"),
        ("train\\fight\\V_1.mp4", "path but for case, slashes or accents"),
        ("V_1.mp4", "file name"),
        ("Fight/V_1.mp4", "end of the path"),
        ("V_1", "stem"),
        ("V_1.avi", "stem"),
        ("RWF-2000/V_1", "normalised stem below other folders"),
    ],
)
def test_the_rule_has_a_name(key: str, rule: str) -> None:
    place = Finder(["train/Fight/V_1.mp4"]).place(key)
    assert place is not None and place.rule == rule


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_join_in_any_unicode_form(form: str) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    place = Finder([unicodedata.normalize(form, "été/Ç\u0345 ǰ.mp4")]).place(
        unicodedata.normalize(other, "Ç\u0345 ǰ")
    )
    assert place is not None


@pytest.mark.parametrize(
    ("key", "video_id"),
    [
        ("cam", "cam.264"),
        ("cam.265", "cam.265"),
        ("V_1_0.0_4.264", "V_1_0.0_4.264.mp4"),
        ("V_1_4.264", "V_1_4.264.mp4"),
        ("V_1_4.264", None),
    ],
)
def test_a_suffix_of_digits_may_be_part_of_a_clip_id(key: str, video_id: str | None) -> None:
    ids = ["V_1_0.0_4.mp4", "V_1_4.mp4", *([video_id] if video_id else [])]
    place = Finder(ids).place(key)
    assert (place and place.ids) == ((video_id,) if video_id else None)
