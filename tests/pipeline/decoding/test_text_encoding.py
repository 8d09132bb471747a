"""Bytes of transcripts to text, in the encodings that Korean and Western files have."""

from __future__ import annotations

import builtins
import codecs
from typing import Any

import pytest

from pipeline.decoding.text_encoding import UnknownEncoding, decoded_text

KOREAN = "1\n00:00:00,500 --> 00:00:02,000\n야, 너 이리 와. 가만두지 않을 거야!\n"
WESTERN = "1\n00:00:00,500 --> 00:00:02,000\nÇa suffit, arrête déjà. C’est fini – où est-il allé?\n"


@pytest.mark.parametrize("text", [KOREAN, WESTERN])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_says_its_encoding_is_not_guessed(text: str, encoding: str) -> None:
    assert decoded_text(text.encode(encoding)) == (text, "")
    assert decoded_text(codecs.BOM_UTF16_BE + text.encode("utf-16-be")) == (text, "")


@pytest.mark.parametrize(
    ("text", "encoding", "guessed"),
    [
        (KOREAN, "utf-16-le", "utf_16_le"),
        (KOREAN, "utf-16-be", "utf_16_be"),
        (WESTERN, "utf-16-le", "utf_16_le"),
        (KOREAN, "cp949", "cp949"),
        ("안녕하세요.", "cp949", "cp949"),
        (WESTERN, "cp1252", "cp1252"),
        ("Ich schlage dich, Größe", "cp1252", "cp1252"),
    ],
)
def test_what_does_not_is_found_out_and_said(text: str, encoding: str, guessed: str) -> None:
    assert decoded_text(text.encode(encoding)) == (text, guessed)


def test_what_the_user_says_decides_but_for_a_mark() -> None:
    japanese = "こんにちは、世界"
    assert decoded_text(japanese.encode("shift_jis"), "shift_jis") == (japanese, "")
    assert decoded_text(KOREAN.encode("utf-8-sig"), "cp949") == (KOREAN, "")
    with pytest.raises(UnknownEncoding, match="it is not ascii text, as encoding= says"):
        decoded_text(KOREAN.encode("cp949"), "ascii")
    with pytest.raises(UnknownEncoding, match="it is not utf-16 text, as its mark says"):
        decoded_text(codecs.BOM_UTF16_LE + b"a")


def test_what_is_no_text_is_refused_without_a_word_of_it() -> None:
    with pytest.raises(UnknownEncoding, match="NUL|none of UTF-8"):
        decoded_text(bytes(range(256)) * 4)
    with pytest.raises(UnknownEncoding, match="NUL"):
        decoded_text("a\0b".encode("utf-16"))


def test_without_the_library_utf8_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "charset_normalizer":
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert decoded_text(KOREAN.encode())[0] == KOREAN
    with pytest.raises(UnknownEncoding, match=r"pip install 'onepass\[text\]', or encoding="):
        decoded_text(KOREAN.encode("cp949"))
