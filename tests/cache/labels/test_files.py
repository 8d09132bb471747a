"""Label files in every form that people write them in, and the ones that must be refused."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.errors import LabelError, SourceError
from cache.labels.files import LabelEntry, read_entries, read_label_file

TWO = [LabelEntry("V_1.mp4", "Fight", "train", "a"), LabelEntry("V_2.mp4", "NonFight", "val", "b")]


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


PLAIN = "path,label,split,source\nV_1.mp4,Fight,train,a\nV_2.mp4,NonFight,val,b\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", PLAIN),
        ("upper_suffix.CSV", PLAIN),
        ("byte_order_mark.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("utf16.csv", PLAIN.encode("utf-16")),
        ("crlf.csv", PLAIN.replace("\n", "\r\n")),
        ("old_mac.csv", PLAIN.replace("\n", "\r")),
        ("no_last_newline.csv", PLAIN.rstrip("\n")),
        ("blank_lines.csv", "\n\n" + PLAIN.replace("V_2", "\n,,,\nV_2") + "\n\n"),
        ("semicolons.csv", PLAIN.replace(",", ";")),
        ("tabs.tsv", PLAIN.replace(",", "\t")),
        ("tabs.txt", PLAIN.replace(",", "\t")),
        (
            "order.csv",
            "Source, SPLIT ,extra,Label,FileName\na,train,x,Fight,V_1.mp4\nb,val,,NonFight,V_2.mp4\n",
        ),
        (
            "quoted.csv",
            '"path","label","split","source"\n"V_1.mp4","Fight","train","a"\nV_2.mp4,"NonFight",val,b\n',
        ),
        ("spaces.csv", "path , label,split,source\n V_1.mp4 ,Fight  , train,a \nV_2.mp4,NonFight,val ,b\n"),
        ("splits.csv", PLAIN.replace("train", "Training").replace("val", "validation")),
        ("trailing_separator.csv", PLAIN.replace("\n", ",\n")),
        (
            "objects.json",
            '[{"path": "V_1.mp4", "label": "Fight", "split": "train", "source": "a"},'
            ' {"file": "V_2.mp4", "class": "NonFight", "subset": "val", "group": "b", "extra": 1}]',
        ),
        (
            "nested.json",
            '{"V_1.mp4": {"label": "Fight", "split": "train", "source": "a"},'
            ' "V_2.mp4": {"label": "NonFight", "split": "val", "source": "b"}}',
        ),
        (
            "lines.jsonl",
            '{"id": "V_1.mp4", "label": "Fight", "split": "train", "source": "a"}\r\n\r\n'
            '{"id": "V_2.mp4", "label": "NonFight", "split": "val", "source": "b"}',
        ),
    ],
)
def test_the_same_rows_in_every_form(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert read_label_file(_file(tmp_path, name, content)) == TWO


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ('{"a": "Fight", "b": "NonFight"}', ["Fight", "NonFight"]),
        ('{"a": 1, "b": 0}', ["1", "0"]),
        ('{"a": 1.0, "b": 0.0}', ["1", "0"]),
        ('{"a": true, "b": false}', ["true", "false"]),
        ('{"a": 1, "a": 1, "b": 0}', ["1", "0"]),
    ],
)
def test_json_object(tmp_path: Path, content: str, labels: list[str]) -> None:
    entries = read_label_file(_file(tmp_path, "labels.json", content))
    assert [(entry.key, entry.label_name) for entry in entries] == list(zip("ab", labels, strict=True))


def test_floats_of_a_table_with_gaps_are_integers(tmp_path: Path) -> None:
    entries = read_label_file(_file(tmp_path, "labels.csv", "clip,target\na,1.0\nb,0.0\n"))
    assert [entry.label_name for entry in entries] == ["1", "0"]


def test_a_value_with_the_separator_and_a_newline(tmp_path: Path) -> None:
    path = _file(tmp_path, "labels.csv", 'path,label\n"a, b\nc.mp4",Fight\nd,NonFight\n')
    first, second = read_label_file(path)
    assert first.key == "a, b\nc.mp4"
    assert second.where == f"{path}, line 4"


def test_the_name_is_preferred_to_the_number(tmp_path: Path) -> None:
    entries = read_label_file(
        _file(tmp_path, "labels.csv", "path,label,label_name\na,1,Fight\nb,0,NonFight\n")
    )
    assert [entry.label_name for entry in entries] == ["Fight", "NonFight"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", "is empty"),
        ("only_header.csv", "path,label\n", "holds no rows"),
        ("no_label.csv", "path,note\na,b\n", "no label column in the header"),
        ("no_path.csv", "thing,label\na,b\n", "no path column in the header"),
        ("no_header.csv", "V_1.mp4,Fight\n", "no path column"),
        ("twice.csv", "path,label,label\na,b,c\n", "'label' stands twice"),
        ("nan.csv", "path,label\na,Fight\nb,NaN\n", r"line 3: the label of 'b' is 'NaN'"),
        ("gap.csv", "path,label\na,Fight\nb,\n", r"line 3: the label of 'b' is 'empty'"),
        ("short.csv", "path,label\na,Fight\nb\n", r"line 3: the label of 'b'"),
        ("no_key.csv", "path,label\n,Fight\n", "line 2: no path or id"),
        ("wide.csv", "path,label\na, b.mp4,Fight\n", "line 2: 3 cells under 2 columns"),
        ("split.csv", "path,label,split\na,Fight,holdout\n", "unknown split 'holdout'"),
        ("quote.csv", 'path,label\n"a"x,Fight\n', "line 2: not valid CSV"),
        ("open_quote.csv", 'path,label\n"a,Fight\n', "not valid CSV"),
        ("latin1.csv", "path,label\nfêté,Fight\n".encode("latin-1"), "is not UTF-8"),
        ("binary.csv", b"path,label\n\x00\x00,Fight\n", "NUL"),
        ("null.json", '{"a": null}', "key 'a': the label of 'a' is 'empty'"),
        ("nan.json", '{"a": NaN}', "key 'a': the label of 'a' is 'nan'"),
        ("twice.json", '{"a": 1, "a": 0}', "key 'a' stands twice"),
        ("list.json", '{"a": [1, 0]}', "key 'a': expected text or a number"),
        ("scalar.json", '"Fight"', "expected an object"),
        ("items.json", "[1, 2]", "item 0: expected an object"),
        ("broken.json", '{"a": 1', "not valid JSON"),
        ("deep.json", "[" * 100_000, "not valid JSON"),
        ("broken.jsonl", '{"path": "a", "label": 1}\n{"path": "b"\n', "line 2: not valid JSON"),
        ("no_label.jsonl", '{"path": "a"}\n', "line 1: the label of 'a'"),
        ("labels.xlsx", "x", "cannot tell its format"),
        (
            "label_class.csv",
            "path,label,class\na,Fight,Fight\nb,Fight,NonFight\n",
            "line 3: column 'label' says 'Fight' and column 'class' says 'NonFight', which contradict each other",
        ),
        ("number_word.csv", "path,label,class\na,1,NonFight\nb,0,Fight\n", "line 2: column 'label' says '1'"),
        (
            "mixed.csv",
            "path,label,class\na,7,cats\nb,8,dogs\nc,7,dogs\n",
            "line 2: .*'7'.*'cats', and .*line 4 says '7' and 'dogs': they contradict each other",
        ),
        ("mixed.jsonl", '{"id": "a", "label": 1, "Class": "NonFight"}\n', "line 1: column 'label' says '1'"),
        ("mixed.json", '{"a": {"label": 1, "target": 0}}', "key 'a': column 'label' says '1'"),
        (
            "splits.csv",
            "path,label,split,subset\na,1,train,training\nb,0,train,val\n",
            "line 3: column 'split' says 'train' and column 'subset' says 'val'",
        ),
        (
            "subset.csv",
            "path,label,split,subset\na,1,train,indoor\n",
            "unknown split 'indoor' in column 'subset'",
        ),
        (
            "sources.csv",
            "path,label,source,group\na,1,x,g1\nb,0,x,g2\n",
            "column 'source' says 'x' and column 'group' says 'g1', and .*line 3 says 'x' and 'g2'",
        ),
        ("sources2.csv", "path,label,source,group\na,1,x,g\nb,0,y,g\n", "contradict each other"),
        ("key_twice.json", '{"1": {"key": "3.mp4", "label": 1}}', "key '1': says 'key' '3.mp4' inside"),
        ("case.jsonl", '{"Path": "a", "path": "b", "label": 1}\n', "'path' stands twice, as 'a' and as 'b'"),
        ("spaces.csv", "File Name,file_name,label\na,b,1\n", "'file_name' stands twice"),
    ],
)
def test_what_is_refused_names_the_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(LabelError, match=message) as caught:
        read_label_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("path,label,class\na,1,Fight\nb,0,NonFight\nc,1,fight\n", ["1", "0", "1"]),
        ("path,class,label\na,Fight,\nb,,NonFight\nc,NaN,Fight\n", ["Fight", "NonFight", "Fight"]),
        ("path,label,category\na,1,robbery\nb,1,assault\nc,0,normal\n", ["1", "1", "0"]),
        ("path,label,class\na,2,street\nb,2,street\n", ["2", "2"]),
        ("path,class,target\na,Fight,2\nb,NonFight,1\n", ["Fight", "NonFight"]),
        ("Video-ID,Class Name\na,Fight\n", ["Fight"]),
    ],
)
def test_columns_that_agree_are_fine(tmp_path: Path, content: str, labels: list[str]) -> None:
    entries = read_label_file(_file(tmp_path, "labels.csv", content))
    assert [entry.label_name for entry in entries] == labels


def test_sources_named_twice_in_the_same_way_are_fine(tmp_path: Path) -> None:
    content = "path,source,group,recording\na,tape1,g1,\nb,tape1,g1,nan\nc,tape2,g2,\n"
    entries = read_entries(_file(tmp_path, "m.csv", content), label_required=False)
    assert [entry.source for entry in entries] == ["tape1", "tape1", "tape2"]


def test_what_is_not_text_counts_only_where_nothing_else_says_it(tmp_path: Path) -> None:
    rows = '{"path": "a.mp4", "label": 1, "clip": [0, 4], "box": {"x": 1}}\n'
    (entry,) = read_label_file(_file(tmp_path, "labels.jsonl", rows))
    assert (entry.key, entry.label_name) == ("a.mp4", "1")
    with pytest.raises(LabelError, match="expected text or a number"):
        read_label_file(_file(tmp_path, "labels.jsonl", '{"clip": [0, 4], "label": 1}\n'))


def test_labels_and_sources_are_nfc(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "é")
    (entry,) = read_label_file(_file(tmp_path, "l.csv", f"path,label,source\n{nfd},{nfd},{nfd}\n"))
    assert (entry.key, entry.label_name, entry.source) == (nfd, "\xe9", "\xe9")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such file"):
        read_label_file(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(LabelError, match="cannot be read"):
        read_label_file(tmp_path / "folder.csv")


def test_labels_may_be_absent_where_they_are_not_needed(tmp_path: Path) -> None:
    path = _file(tmp_path, "manifest.csv", "path,source\na.mp4,one\nb.mp4,nan\n")
    entries = read_entries(path, label_required=False)
    assert entries == [LabelEntry("a.mp4", "", "", "one"), LabelEntry("b.mp4", "")]
    with pytest.raises(SourceError, match="no such file"):
        read_entries(tmp_path / "none.csv", label_required=False, error=SourceError)


def test_one_column_needs_no_separator(tmp_path: Path) -> None:
    path = _file(tmp_path, "manifest.csv", "path\na b;c.mp4\n")
    assert [entry.key for entry in read_entries(path, label_required=False)] == ["a b;c.mp4"]


def test_entry_checks_itself() -> None:
    with pytest.raises(ValueError, match="key"):
        LabelEntry("", "Fight")
    with pytest.raises(ValueError, match="split"):
        LabelEntry("a", "Fight", "training")


_PIECES = st.sampled_from(
    [
        *("path", "label", "Fight", "0", "1.0", "nan", "null", "-1", "1e999", "a.mp4", "train", "split"),
        *(
            ",",
            ";",
            "\t",
            '"',
            "'",
            "\n",
            "\r\n",
            " ",
            "{",
            "}",
            "[",
            "]",
            ":",
            "\\",
            "\0",
            "é",
            "\ufeff",
            "\ud800",
        ),
    ]
)


def test_text_that_no_cache_can_hold_is_escaped(tmp_path: Path) -> None:
    path = _file(tmp_path, "labels.jsonl", r'{"path": "a", "label": "Fi\ud800ght", "source": "t\u0000"}')
    (entry,) = read_label_file(path)
    assert (entry.label_name, entry.source) == (r"Fi\ud800ght", r"t\x00")


@settings(deadline=None)  # a shared disk may be slow
@given(content=st.lists(_PIECES, max_size=40), suffix=st.sampled_from([".csv", ".tsv", ".json", ".jsonl"]))
@example(content=["{", '"', "path", '"', ":", "1e999", "}"], suffix=".jsonl")
def test_any_text_is_read_or_refused(content: list[str], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), f"labels{suffix}", "".join(content).encode("utf-8", "surrogatepass"))
        try:
            entries = read_label_file(path)
        except LabelError as problem:
            assert str(path) in str(problem)
        else:
            assert all(entry.key.strip() and entry.label_name.strip() for entry in entries)
