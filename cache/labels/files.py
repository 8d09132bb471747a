"""Reads files that say something about videos by name: label files, source-group files, manifests.

One row a video, as CSV (`,` `;` or tab, header in any order and case), JSON or JSONL. Columns:

    key     path, filename, file, video, clip, image, name, id (and *_path, *_file, *_name, *_id of these)
    label   label_name, label, class, class_name, target, category
    split   split, subset, fold_split          train | val | test and their usual longer forms
    source  source, group, source_group, recording

Of several key columns the one that names videos counts (`cache.labels.keys`). Of several label, split or source
columns the first is read and the others must agree (`cache.labels.columns`).

A JSON file may also be one object: `{"V_1.mp4": "Fight"}` or `{"V_1.mp4": {"label": "Fight", "split":
"val"}}`. Labels are kept as written, in Unicode form NFC, except that 1, 1.0 and "1" are the same label, and so
are true and "True".
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import InputError, LabelError
from cache.labels.columns import (
    COLUMNS,
    KEY_COLUMNS,
    KNOWN_COLUMNS,
    LABEL_COLUMNS,
    MISSING,
    SOURCE_COLUMNS,
    SPLIT_COLUMNS,
    column_name,
    present,
    require_agreement,
)
from cache.labels.names import nfc
from cache.schema import storable_text

SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Folder and column values that name a split -> the split's name in a cache."""

_NO_KEY = frozenset({*LABEL_COLUMNS, *SPLIT_COLUMNS})
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One row. `label_name`, `split` and `source` are "" where the file does not say; `where` is for messages.

    `key` names the video as far as the file alone tells; `cells` holds what else may name it, by column.
    """

    key: str
    label_name: str
    split: str = ""
    source: str = ""
    where: str = field(default="", compare=False)
    cells: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a label entry needs a key")
        if self.split not in ("", "train", "val", "test"):
            raise ValueError(f"split must be train, val, test or empty, not {self.split!r}")


def read_label_file(path: str | Path) -> list[LabelEntry]:
    """Every row of a CSV, JSON or JSONL label file, in file order.

    Raises LabelError for a file that cannot be read, has no key or label column, has a row whose key or label is
    missing (empty, NaN, null) or whose split is unknown, or has columns that contradict each other; the message
    names the line.
    """
    return read_entries(path, label_required=True)


def read_entries(
    path: str | Path, *, label_required: bool, error: type[InputError] = LabelError, text: str | None = None
) -> list[LabelEntry]:
    """As `read_label_file`; labels may be absent unless `label_required`; problems are raised as `error`.

    text: what the file holds, where it has been read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"):
        raise error(f"{path}: cannot tell its format; name it .csv, .tsv, .json or .jsonl")
    text = _decoded(path, error) if text is None else text
    rows: Iterable[tuple[str, dict[str, Any]]]
    if suffix == ".json":
        rows = _json_rows(text, path, error)
    elif suffix in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(text, path, error)
    else:
        rows = _csv_rows(text, path, label_required=label_required, error=error)
    told = [(where, _row_texts(row, where, error)) for where, row in rows]
    if not told:
        raise error(f"{path}: holds no rows; expected one row a video")
    entries = [_entry(row, where, label_required=label_required, error=error) for where, row in told]
    require_agreement(told, splits=SPLIT_NAMES, error=error)
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
                header = [column_name(cell) for cell in cells]
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
    for name in ("path", "label") if label_required else ("path",):
        accepted = COLUMNS[name]
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
            if str(row.get("key", key)) != key:
                raise error(f"{path}, key {key!r}: says 'key' {row['key']!r:.60} inside; keep one of them")
            rows.append((f"{path}, key {key!r}", {**row, "key": key}))
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


def _row_texts(raw: Mapping[str, Any], where: str, error: type[InputError]) -> dict[str, str]:
    """The row with every header in one spelling and every known cell as text; other cells only where they are text."""
    row: dict[str, str] = {}
    for header, value in raw.items():
        name = column_name(str(header))
        plain = value is None or isinstance(value, str | int | float)
        if not plain and name not in LABEL_COLUMNS and _said_elsewhere(name, raw):
            continue
        text = _text(value, where, error)
        if name in KNOWN_COLUMNS and row.get(name, text) != text:
            raise error(f"{where}: {name!r} stands twice, as {row[name]!r:.60} and as {text!r:.60}")
        row[name] = text
    return row


def _said_elsewhere(name: str, raw: Mapping[str, Any]) -> bool:
    """Whether nothing is lost without this column: it says nothing here, or another one says the same in plain text."""
    meaning = next((names for names in COLUMNS.values() if name in names), ())
    plain = {column_name(str(h)) for h, value in raw.items() if isinstance(value, str | int | float)}
    return not meaning or bool(plain & set(meaning))


def _entry(
    row: Mapping[str, str], where: str, *, label_required: bool, error: type[InputError]
) -> LabelEntry:
    (column, key), (_, label_name) = present(row, KEY_COLUMNS), present(row, LABEL_COLUMNS)
    if not key:
        raise error(f"{where}: no path or id in this row; give one of {', '.join(KEY_COLUMNS[:7])}")
    if label_name.lower() in MISSING:
        if label_required:
            raise error(
                f"{where}: the label of {key!r} is {label_name or 'empty'!r}; fill it in or remove the row"
            )
        label_name = ""
    if re.fullmatch(r"-?\d+\.0+", label_name):  # an integer column that went through a table with gaps
        label_name = label_name.partition(".")[0]
    for name in SPLIT_COLUMNS:
        split = row.get(name, "").lower()
        if split not in MISSING and split not in SPLIT_NAMES:
            raise error(f"{where}: unknown split {row[name]!r} in column {name!r}; use train, val or test")
    split, source = present(row, SPLIT_COLUMNS)[1].lower(), present(row, SOURCE_COLUMNS)[1]
    told = {name: text for name, text in row.items() if name not in _NO_KEY and text.lower() not in MISSING}
    return LabelEntry(
        key=key,
        label_name=nfc(label_name),
        split=SPLIT_NAMES.get(split, ""),
        source="" if source.lower() in MISSING else nfc(source),
        where=where,
        cells={**told, column: key},
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
