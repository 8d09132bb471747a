"""Reads files that say something about videos by name: label files, source-group files, manifests.

One row a video, as CSV (`,` `;` or tab, header in any order and case), JSON or JSONL. Columns, first found
wins:

    key     path, id, file, filename, video, clip, name (and *_path, *_id, *_name of these)
    label   label_name, label, class, class_name, target, category
    split   split, subset, fold_split          train | val | test and their usual longer forms
    source  source, group, source_group, recording

A JSON file may also be one object: `{"V_1.mp4": "Fight"}` or `{"V_1.mp4": {"label": "Fight", "split":
"val"}}`. Labels are kept as written, except that 1, 1.0 and "1" are the same label, and so are true and
"True".
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import InputError, LabelError
from cache.schema import storable_text

KEY_COLUMNS = (
    *("path", "id", "file", "filename", "file_name", "file_path", "video", "video_path", "video_id"),
    *("video_name", "clip", "clip_path", "clip_id", "clip_name", "name", "key"),
)
LABEL_COLUMNS = ("label_name", "label", "labels", "class", "class_name", "target", "category")
SPLIT_COLUMNS = ("split", "subset")
SOURCE_COLUMNS = ("source", "group", "source_group", "recording")

SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Folder and column values that name a split -> the split's name in a cache."""

_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "?"})
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One row. `label_name`, `split` and `source` are "" where the file does not say; `where` is for
    messages.
    """

    key: str
    label_name: str
    split: str = ""
    source: str = ""
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a label entry needs a key")
        if self.split not in ("", "train", "val", "test"):
            raise ValueError(f"split must be train, val, test or empty, not {self.split!r}")


def read_label_file(path: str | Path) -> list[LabelEntry]:
    """Every row of a CSV, JSON or JSONL label file, in file order.

    Raises LabelError for a file that cannot be read, has no key or label column, or has a row whose key or
    label is missing (empty, NaN, null) or whose split is unknown; the message names the line.
    """
    return read_entries(path, label_required=True)


def read_entries(
    path: str | Path, *, label_required: bool, error: type[InputError] = LabelError
) -> list[LabelEntry]:
    """As `read_label_file`; labels may be absent unless `label_required`; problems are raised as `error`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"):
        raise error(f"{path}: cannot tell its format; name it .csv, .tsv, .json or .jsonl")
    text = _decoded(path, error)
    rows: Iterable[tuple[str, dict[str, Any]]]
    if suffix == ".json":
        rows = _json_rows(text, path, error)
    elif suffix in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(text, path, error)
    else:
        rows = _csv_rows(text, path, label_required=label_required, error=error)
    entries = [_entry(row, where, label_required=label_required, error=error) for where, row in rows]
    if not entries:
        raise error(f"{path}: holds no rows; expected one row a video")
    return entries


def _decoded(path: Path, error: type[InputError]) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is not UTF-8 text (byte {problem.start}); save it as UTF-8") from None
    if "\0" in text:
        raise error(f"{path}: holds NUL bytes, so it is not a text file; save it as UTF-8 text")
    return text


def _csv_rows(
    text: str, path: Path, *, label_required: bool, error: type[InputError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    if not header_line:
        raise error(f"{path}: is empty; expected a header such as path,label")
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip().lower() for cell in cells]
                _check_header(header, path, label_required=label_required, error=error)
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise error(
                    f"{where}: {len(cells)} cells under {len(header)} columns ({', '.join(header)}); "
                    "quote a value that holds the separator"
                )
            yield where, dict(zip(header, cells, strict=False))
    except csv.Error as problem:
        raise error(f"{path}, line {reader.line_num}: not valid CSV: {problem}") from None


def _check_header(header: list[str], path: Path, *, label_required: bool, error: type[InputError]) -> None:
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled:
        raise error(f"{path}: column {doubled[0]!r} stands twice in the header; keep one of them")
    wanted = [("path", KEY_COLUMNS)] + ([("label", LABEL_COLUMNS)] if label_required else [])
    for name, accepted in wanted:
        if not set(accepted) & set(header):
            raise error(
                f"{path}: no {name} column in the header ({', '.join(header)}); "
                f"name one column {name!r} (also accepted: {', '.join(a for a in accepted if a != name)})"
            )


def _json_rows(text: str, path: Path, error: type[InputError]) -> list[tuple[str, dict[str, Any]]]:
    content = _parsed_json(text, str(path), error)
    if isinstance(content, dict):
        rows = []
        for key, value in content.items():
            row = value if isinstance(value, dict) else {"label": value}
            rows.append((f"{path}, key {key!r}", {**row, "path": key}))
        return rows
    if isinstance(content, list):
        return [
            (f"{path}, item {n}", _as_row(item, f"{path}, item {n}", error)) for n, item in enumerate(content)
        ]
    raise error(
        f"{path}: expected an object of key: label, or a list of objects, not {type(content).__name__}"
    )


def _jsonl_rows(text: str, path: Path, error: type[InputError]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _as_row(_parsed_json(line, where, error), where, error)


def _as_row(item: Any, where: str, error: type[InputError]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise error(
            f'{where}: expected an object such as {{"path": "V_1.mp4", "label": "Fight"}}, not {item!r:.80}'
        )
    return item


def _parsed_json(text: str, where: str, error: type[InputError]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content and content[key] != value:
                raise error(
                    f"{where}: key {key!r} stands twice, as {content[key]!r:.60} and as {value!r:.60}"
                )
            content[key] = value
        return content

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not valid JSON: {problem}") from None


def _entry(
    raw: Mapping[str, Any], where: str, *, label_required: bool, error: type[InputError]
) -> LabelEntry:
    row = {str(name).strip().lower(): value for name, value in raw.items()}

    def cell(columns: tuple[str, ...]) -> str:
        texts = (_text(row[name], where, error) for name in columns if name in row)
        return next((text for text in texts if text), "")

    key, label_name, split = cell(KEY_COLUMNS), cell(LABEL_COLUMNS), cell(SPLIT_COLUMNS)
    if not key:
        raise error(f"{where}: no path or id in this row; give one of {', '.join(KEY_COLUMNS[:7])}")
    if label_name.lower() in _MISSING:
        if label_required:
            raise error(
                f"{where}: the label of {key!r} is {label_name or 'empty'!r}; fill it in or remove the row"
            )
        label_name = ""
    if label_name in ("0.0", "1.0"):  # an integer column that went through a table with gaps
        label_name = label_name[0]
    if split.lower() in _MISSING:
        split = ""
    if split and split.lower() not in SPLIT_NAMES:
        raise error(f"{where}: unknown split {split!r}; use train, val or test")
    source = cell(SOURCE_COLUMNS)
    return LabelEntry(
        key=key,
        label_name=label_name,
        split=SPLIT_NAMES[split.lower()] if split else "",
        source="" if source.lower() in _MISSING else source,
        where=where,
    )


def _text(value: Any, where: str, error: type[InputError]) -> str:
    """A cell as text: bools as true/false, whole floats as integers, missing values as ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isnan(value) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return storable_text(str(value)).strip()
    raise error(f"{where}: expected text or a number, not {value!r:.80}")
