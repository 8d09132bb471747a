"""Cues to pieces to tokens: joining, splitting, and a token that does not depend on its company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import DeviceError, InputError
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.plain_text import plain_pieces
from pipeline.backbones.text import BATCH, TextBackbone, pieces_of, tokens_of
from pipeline.backbones.text_keys import reads_text
from pipeline.decoding.decode import DecodedVideo
from pipeline.decoding.words import Cue, Words, untimed
from tests.pipeline.backbones.kinds.checks import loaded
from tests.words import write_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextBackbone:
    found = loaded(f"text=transformers:{folder}")
    assert isinstance(found, TextBackbone)
    return found


def spans(cues: list[Cue], window: float, most: int = 20) -> list[tuple[float, float, str]]:
    made = pieces_of(cues, window_seconds=window, fits=lambda text: len(text) <= most)
    return [(round(p.start_seconds, 3), round(p.end_seconds, 3), p.text) for p in made]


def test_neighbours_are_joined_up_to_the_window_and_no_further() -> None:
    cues = [Cue(0, 1, "a"), Cue(1.5, 2, "b"), Cue(4, 5, "c"), Cue(5.5, 6, "d"), untimed("e"), untimed("f")]
    assert spans(cues[:4], 5) == [(0, 5, "a b c"), (5.5, 6, "d")]
    assert spans(cues[:4], 0) == [(0, 1, "a"), (1.5, 2, "b"), (4, 5, "c"), (5.5, 6, "d")]
    assert spans(cues[4:], 3600) == [(0, float("inf"), "e"), (0, float("inf"), "f")]
    assert spans(cues[:2], 5, most=2) == [(0, 1, "a"), (1.5, 2, "b")]  # both together do not fit


def test_a_long_cue_is_halved_at_spaces_and_shares_its_time() -> None:
    assert spans([Cue(0, 10, "aaaa bbbb cccc dddd")], 5, most=10) == [
        (0, 4.737, "aaaa bbbb"),
        (4.737, 10, "cccc dddd"),
    ]
    assert [text for _, _, text in spans([Cue(0, 1, "abcdefgh")], 5, most=3)] == ["ab", "cd", "ef", "gh"]
    whole = spans([Cue(0, 60, "one two three four five six seven eight nine ten " * 9)], 5)
    assert all(len(text) <= 20 for _, _, text in whole)
    assert (
        " ".join(text for _, _, text in whole)
        == ("one two three four five six seven eight nine ten " * 9).strip()
    )
    assert [end for _, end, _ in whole[:-1]] == [start for start, _, _ in whole[1:]]
    video = [Cue(0, 8, "aaaa bbbb cccc dddd", timed=False)]
    assert spans(video, 5, most=10) == [(0, 8, "aaaa bbbb"), (0, 8, "cccc dddd")]


CUES = st.lists(
    st.builds(
        lambda start, seconds, text, timed: Cue(start, start + seconds, text, timed=timed),
        st.integers(0, 12).map(float),
        st.sampled_from([0.0, 0.5, 3.0]),
        st.text("ab ", min_size=1, max_size=30).map(lambda text: " ".join(text.split()) or "a"),
        st.booleans(),
    ),
    max_size=6,
)


@given(CUES, st.sampled_from([0.0, 2.0, 5.0]), st.sampled_from([3, 9]))
def test_the_plain_pieces_are_the_same(cues: list[Cue], window: float, most: int) -> None:
    """Those of `verify`, which share no line with these."""
    cues.sort(key=lambda cue: (cue.start_seconds, cue.end_seconds))
    found = pieces_of(cues, window_seconds=window, fits=lambda text: len(text) <= most)
    plain = plain_pieces(
        cues, window_seconds=window, most_tokens=most, count=lambda text: (len(text), len(text))
    )
    assert [(p.start_seconds, p.end_seconds, p.text) for p in found] == [
        (pytest.approx(start), pytest.approx(end), text) for start, end, text in plain
    ]


def test_pieces_fit_the_encoder_and_what_is_no_word_is_none(encoder: TextBackbone) -> None:
    pieces = encoder.pieces(Words((Cue(0, 4, "abcdefghij " * 6),)))
    rows = encoder.rows(pieces)
    assert rows.dtype == np.int32 and rows.shape == (len(pieces), 24) and len(pieces) >= 3
    assert ((rows > 0).sum(1) > 2).all() and (rows[:, 0] == 3).all()
    assert encoder.pieces(Words((Cue(0, 1, "\u200b"),))) == ()
    video = DecodedVideo(1.0, 1.0, 1, 1, 1, 0, 1.0, words={"text": Words((Cue(0, 1, "\u200b"),))})
    read, tokens = tokens_of(video, {"text": encoder})
    assert not tokens and read.absent == {"text": "no transcript: no word in it is one to the tokenizer"}


def test_megabytes_of_words_are_not_read_once_a_halving(
    encoder: TextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pieces as by reading all of it each time, by far fewer letters than that."""
    words = Words((untimed("abcde fgh " * 400),))
    read: list[int] = []
    numbers = encoder._network.numbers
    counting = replace(encoder._network, numbers=lambda text: read.append(len(text)) or numbers(text))
    monkeypatch.setattr(encoder, "_network", counting)
    pieces = encoder.pieces(words)
    whole = pieces_of(words.cues, window_seconds=5, fits=lambda text: len(numbers(text)) <= encoder._room)
    assert pieces == tuple(whole) and len(pieces) > 100
    assert max(read) <= 16 * encoder._room


def test_a_token_is_the_same_in_any_company(encoder: TextBackbone) -> None:
    texts = ["abc", "hello you", "a", "stop it now at once", "xyz abc def", "no"] * 9
    pieces = encoder.pieces(Words(tuple(Cue(9 * n, 9 * n + 1, t) for n, t in enumerate(texts))))
    rows = torch.from_numpy(encoder.rows(pieces))
    assert len(rows) == 54
    together = encoder.embed(rows)
    turned = encoder.embed(rows.flip(0)).flip(0)
    alone = torch.cat([encoder.embed(row[None]) for row in rows[:6]])
    assert torch.equal(together, turned) and torch.equal(together[:6], alone)
    blank = torch.zeros(BATCH, 24, dtype=torch.int32)
    blank[3] = rows[1]
    assert torch.equal(encoder.embed(blank)[3], together[1]) and not encoder.embed(blank)[0].any()
    for n in range(6):
        np.testing.assert_allclose(together[n], encoder.embed_plainly([texts[n]]), atol=1e-5)


def test_float32_is_exact_and_a_full_device_is_a_sentence(
    encoder: TextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.from_numpy(encoder.rows(encoder.pieces(Words((Cue(0, 1, "abc"),)))))
    seen: list[bool] = []

    def full(*_: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "_module", full)
    with pytest.raises(
        DeviceError, match=f"no memory for text in batches of {BATCH}: use --batch text={BATCH // 2}"
    ):
        encoder.embed(rows)
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_a_batch_that_was_asked_for_is_taken(folder: Path) -> None:
    found = loaded(f"text=transformers:{folder}", batch_sizes=(("text", 3),))
    assert found.batching.batch_size == 3


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("fps=2", "streams of text have no such setting"),
        ("runtime=openvino", "streams of text run in torch"),
        ("window=-1", "window=-1: seconds, 0 to 3600"),
        ("window=x", "window=x: seconds"),
        ("track=x", "track=x: the number of a subtitle track"),
        ("encoding=klingon", "encoding=klingon: no such encoding"),
        ("track=0,encoding=cp949", "encoding=cp949: is for files, and track= reads none"),
        ("pool=max", "pool=max: choose cls or mean"),
        ("reads=pictures", "reads=pictures: this model can read text"),
        ("word=1", "transformers has no key 'word'"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, keys: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        settle(parse_stream(f"text=transformers:{folder},{keys}"))


def test_the_name_text_reads_text_unless_something_else_is_said() -> None:
    asked = [
        parse_stream(text)
        for text in ("text=k:m", "words=k:m", "words=k:m,reads=text", "text=k:m,reads=pictures")
    ]
    assert [reads_text(choice, also_pictures=True) for choice in asked] == [True, False, True, False]
    with pytest.raises(InputError, match="reads=sound: this model can read text or pictures"):
        reads_text(parse_stream("words=k:m,reads=sound"), also_pictures=True)


def test_defaults_and_what_is_said_alike_are_one(folder: Path) -> None:
    plain, said = (
        settle(parse_stream(f"text=transformers:{folder}{keys}")) for keys in ("", ",window=5,pool=mean")
    )
    assert plain.choice == said.choice and plain.sampling == {"window_seconds": 5.0, "max_tokens": 24}
