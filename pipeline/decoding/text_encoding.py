"""Bytes to text: by their mark, as UTF-8, or by what charset-normalizer makes of them, which is said.

UTF-16 and UTF-32 with a mark, UTF-8 with and without one, UTF-16 without one, CP949 (Korean) and Windows-1252 (Western).
"""

from __future__ import annotations

import codecs

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
TWO_BYTES = ("utf_16_le", "utf_16_be")
ONE_BYTE = ("cp949", "cp1252")
"""What files without a mark that are not UTF-8 are held to be. UTF-16 has bytes of 0 wherever it has a digit or a space."""


class UnknownEncoding(ValueError):
    """The text says what is wrong and what to do; nothing of the contents."""


def decoded_text(data: bytes, encoding: str = "") -> tuple[str, str]:
    """The text, and the encoding where it was guessed, else "". encoding: what the user says it is. Raises UnknownEncoding."""
    marked = next((name for mark, name in MARKS if data.startswith(mark)), "")
    for known in (marked or encoding, "" if marked or encoding else "utf-8"):
        if not known or (known == "utf-8" and b"\0" in data):
            continue
        try:
            return _without_zeros(data.decode(known)), ""
        except (UnicodeDecodeError, LookupError):
            if known != "utf-8":
                raise UnknownEncoding(f"it is not {known} text, as {_who(marked)} says") from None
    return _guessed(data)


def _guessed(data: bytes) -> tuple[str, str]:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise UnknownEncoding(
            "it is not UTF-8, and telling what else needs charset-normalizer: pip install 'onepass[text]', or encoding="
        ) from None
    best = from_bytes(data, cp_isolation=list(TWO_BYTES if b"\0" in data else ONE_BYTE)).best()
    if best is None:
        raise UnknownEncoding("its encoding is none of UTF-8, UTF-16, CP949, Windows-1252; say it: encoding=")
    return _without_zeros(str(best)), best.encoding


def _who(marked: str) -> str:
    return "its mark" if marked else "encoding="


def _without_zeros(text: str) -> str:
    if "\0" in text:
        raise UnknownEncoding("it holds NUL characters, so it is no text")
    return text
