"""KoBERT's own layout (spiece.model, XLNetTokenizer or KoBERTTokenizer) against sentencepiece and BertModel run plainly."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers

from cache.errors import WeightsError
from pipeline.backbones import sentencepieces, text_models
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.sentencepieces import plain_numbers
from pipeline.decoding.words import Cue, Words
from tests.pipeline.backbones.kinds.checks import loaded
from tests.words import KOREAN, write_kobert

CLS, SEP, UNKNOWN = 2, 3, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kobert(tmp_path_factory.mktemp("kobert") / "m")


@pytest.mark.parametrize("tokenizer_class", ["XLNetTokenizer", "KoBERTTokenizer"])
def test_tokens_are_the_cls_of_the_model_run_plainly(tokenizer_class: str, tmp_path: Path) -> None:
    folder = write_kobert(tmp_path / "m", tokenizer_class)
    backbone = loaded(f"text=transformers:{folder}")
    cues = Words(tuple(Cue(9.0 * n, 9.0 * n + 1, text) for n, text in enumerate(KOREAN)))
    rows = backbone.rows(backbone.pieces(cues))
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    model = transformers.BertModel.from_pretrained(folder).eval()
    for text, row, token in zip(KOREAN, rows, backbone.embed(torch.from_numpy(rows)), strict=True):
        ids = [CLS, *spm.encode(text), SEP]
        assert (row[row > 0] - 1).tolist() == ids and UNKNOWN not in ids
        with torch.inference_mode():
            cls = model(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
        np.testing.assert_allclose(token, cls, atol=1e-5)
        np.testing.assert_allclose(token, backbone.embed_plainly([text]), atol=1e-5)
    assert backbone.fingerprint()["feature"] == "first token, not normalised"


def test_any_text_has_the_numbers_that_sentencepiece_gives(folder: Path) -> None:
    tokenizer = settle(parse_stream(f"text=transformers:{folder}")).found["tokenizer"]
    letters = (
        "한국어모델을공유합니다그만해때리지마1234,. ab\"'`é가각힣쿼ㅋＡ①～ \t\u3000👊!?ﬁ½"
        + unicodedata.normalize("NFD", "각")
    )
    chosen = random.Random(0)
    for _ in range(300):
        text = "".join(chosen.choices(letters, k=chosen.randint(1, 25)))
        expected = plain_numbers(str(folder / "spiece.model"), text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text


def test_a_tokenizer_that_knows_none_of_its_own_words_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers alone reads KoBERT: every Korean word is unknown, and nothing says so."""
    monkeypatch.setattr(text_models, "composed", lambda tokenizer: tokenizer)
    with pytest.raises(WeightsError, match=r"its tokenizer does not know \d+ of \d+ of its own words"):
        settle(parse_stream(f"text=transformers:{folder}"))


def test_a_model_that_was_cut_short_is_refused(folder: Path, tmp_path: Path) -> None:
    """Between two pieces: sentencepiece itself reads what is left."""
    import sentencepiece

    whole = (folder / "spiece.model").read_bytes()
    cut = shutil.copytree(folder, tmp_path / "cut")
    for length in range(len(whole) // 2 if len(whole) < 2000 else 700, 0, -1):
        (cut / "spiece.model").write_bytes(whole[:length])
        with contextlib.suppress(RuntimeError, OSError):
            if sentencepiece.SentencePieceProcessor(model_file=str(cut / "spiece.model")).get_piece_size():
                break
    with pytest.raises(
        WeightsError, match=r"has \d+ pieces and the network \d+: is its sentencepiece model whole"
    ):
        settle(parse_stream(f"text=transformers:{cut}"))


def test_enclosing_tokens_that_the_network_lacks_are_refused(folder: Path, tmp_path: Path) -> None:
    small = shutil.copytree(folder, tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 5}))
    with pytest.raises(WeightsError, match=r"its tokenizer knows token \d+ and the network \d+"):
        settle(parse_stream(f"text=transformers:{small}"))


def test_a_package_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("`tiktoken` is required to read a `tiktoken` file")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(WeightsError, match="cannot be read"):
        settle(parse_stream(f"text=transformers:{folder}"))
    monkeypatch.setattr(sentencepieces, "_installed", lambda name: name != "sentencepiece")
    with pytest.raises(WeightsError, match=r"sentencepiece is not installed: pip install 'onepass\[text\]'"):
        settle(parse_stream(f"text=transformers:{folder}"))


def test_a_protobuf_too_old_for_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    due = r"a sentencepiece model, and sentencepiece \S+ with protobuf \S+ cannot read it \(.*\): pip install --upgrade"
    with pytest.raises(WeightsError, match=due):
        settle(parse_stream(f"text=transformers:{folder}"))
