"""Text towers of open_clip as streams, against open_clip run plainly."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch

from cache.errors import InputError
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.load import config_from_fingerprints
from pipeline.decoding.words import Cue, Words
from pipeline.zero_shot import text_sides
from tests.pipeline.backbones.kinds.checks import loaded

MODEL = "tiny-reader"


@pytest.fixture(scope="module", autouse=True)
def tiny_reader(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    path = tmp_path_factory.mktemp("models") / f"{MODEL}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)


def test_it_agrees_with_encode_text_and_leads_back_to_its_choice() -> None:
    from pipeline.backbones.base import seeded

    backbone = loaded(f"text=open_clip:{MODEL},weights=random,seed=3")
    with seeded(3):
        model = open_clip.create_model(MODEL, pretrained=None, precision="fp32").eval()
    texts = [
        "two people fight",
        "a quiet walk",
        "one two three four five six seven eight nine ten eleven twelve",
    ]
    cues = Words(tuple(Cue(9.0 * n, 9.0 * n + 4, text) for n, text in enumerate(texts)))
    pieces = backbone.pieces(cues)
    assert [piece.text for piece in pieces[:2]] == texts[:2] and len(pieces) == 4
    found = backbone.embed(torch.from_numpy(backbone.rows(pieces)))
    with torch.inference_mode():
        plain = model.encode_text(open_clip.get_tokenizer(MODEL)([piece.text for piece in pieces]))
    np.testing.assert_allclose(found, plain, atol=1e-5)
    np.testing.assert_allclose(backbone.embed_plainly([texts[0]]), plain[0], atol=1e-5)
    fields = backbone.fingerprint()
    assert fields["feature"] == "encode_text, not normalised" and fields["options"]["reads"] == "text"
    (again,) = config_from_fingerprints({"text": fields}).streams
    assert loaded(str(again)).fingerprint() == fields
    with pytest.raises(InputError, match="stream text reads text: zero-shot compares features of pictures"):
        text_sides("text", fields, positive=["a"], negative=["b"])


def test_pictures_are_read_unless_text_is_asked_for() -> None:
    assert settle(parse_stream(f"clip=open_clip:{MODEL},weights=random")).plan.words is None
    assert settle(parse_stream(f"words=open_clip:{MODEL},weights=random,reads=text")).plan.words is not None
    assert settle(parse_stream(f"text=open_clip:{MODEL},weights=random,reads=pictures")).plan.words is None
    with pytest.raises(InputError, match="track=1: is for streams that read text"):
        settle(parse_stream(f"clip=open_clip:{MODEL},weights=random,track=1"))
    with pytest.raises(InputError, match="its text tower reads with a tokenizer of the hub"):
        settle(parse_stream("text=open_clip:ViT-B-16-SigLIP2,weights=random"))
