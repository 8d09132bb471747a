"""Tokenizers of text encoders whose words lie in a sentencepiece model: what transformers reads otherwise than they were made.

KoBERT is a BERT with an XLNetTokenizer (its own class, KoBERTTokenizer of SKTBrain/KoBERT, differs from that in where [CLS]
stands). XLNet's takes letters apart (NFKD) to drop accents, and sentencepiece puts them together again: Hangul syllables are
letters and vowels until then. The tokenizers library does not do the latter, so that to transformers 5 every Korean word is
unknown.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable
from importlib import metadata
from typing import Any

from cache.errors import WeightsError

SPIECE_FILE = "spiece.model"
FILES = (SPIECE_FILE, "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model")
PACKAGES = ("sentencepiece", "google.protobuf")
KOBERT_CLASS = "KoBERTTokenizer"
SAMPLE = 200
LEAST_PIECES = 0.9
"""Of the network's, that a tokenizer has: networks are padded by a few, a file that was cut short lacks many."""
MOST_LOST = 0.5
"""Share of a tokenizer's own words that may be unknown to it; of one that is read right none is, but for a few odd pieces."""


def lacking_package(find: Callable[[str], Any]) -> str:
    """Why a tokenizer cannot be read with what is installed and what to do, or "". find: a file of the model, or None."""
    if not any(find(name) for name in FILES):
        return ""
    if lacking := ", ".join(name for name in PACKAGES if not _installed(name)):
        return f"{lacking} is not installed: pip install 'onepass[text]'"
    try:
        import sentencepiece.sentencepiece_model_pb2  # noqa: F401 - generated code, for a protobuf of its time
    except Exception as error:  # noqa: BLE001 - protobuf's own type, or what an older one lacks
        versions = " with ".join(f"{name} {metadata.version(name)}" for name in ("sentencepiece", "protobuf"))
        return f"{versions} cannot read it ({error}): pip install --upgrade protobuf"
    return ""


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def composed(tokenizer: Any) -> Any:
    """An XLNetTokenizer that puts letters together again before it looks for words; any other as it is."""
    import transformers
    from tokenizers import normalizers

    if isinstance(tokenizer, transformers.XLNetTokenizer):
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.NFC()])
    return tokenizer


def require_own_words(tokenizer: Any, said: str) -> None:
    """Raise WeightsError where most of the words that a tokenizer holds are unknown to it. said: how it was asked for."""
    special = set(tokenizer.all_special_ids)
    words = [word for word, n in sorted(tokenizer.get_vocab().items()) if n not in special]
    texts = [
        word.replace("\u2581", " ").removeprefix("##").strip() for word in words[:: -(-len(words) // SAMPLE)]
    ]
    texts = [text for text in texts if text]
    if not texts or tokenizer.unk_token_id is None:
        return
    made = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    lost = sum(tokenizer.unk_token_id in numbers for numbers in made)
    if lost > MOST_LOST * len(texts):
        import transformers

        raise WeightsError(
            f"{said}: its tokenizer does not know {lost} of {len(texts)} of its own words as transformers "
            f"{transformers.__version__} reads it; give a folder with a tokenizer.json that was made from it, or another model"
        )


def plain_numbers(model_file: str, text: str) -> list[int]:
    """Numbers of a text without enclosing tokens as KoBERTTokenizer gives them, by sentencepiece alone: for comparison.

    Its rule for pieces such as "1," names a constant that its module lacks, so that none can have come up.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=model_file)
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    apart = unicodedata.normalize("NFKD", text)
    numbers: list[int] = model.encode("".join(c for c in apart if not unicodedata.combining(c)))
    return numbers
