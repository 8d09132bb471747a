"""Kinds are found by name, refuse what they do not know, and lead back from fingerprints."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from cache.errors import InputError, WeightsError
from pipeline.backbones import kind as kinds
from pipeline.backbones.choice import StreamChoice, near, parse_stream
from pipeline.backbones.kind import OWN_KINDS, choice_from_fingerprint, kind_named, settle


@pytest.mark.parametrize("name", OWN_KINDS)
def test_own_kinds_say_what_they_are(name: str) -> None:
    found = kind_named(name)
    assert found.name == name and found.about
    for example in found.examples():
        settled = settle(parse_stream(example.choice))
        assert settled.plan.name == parse_stream(example.choice).name
        if settled.plan.sound is not None:
            assert (example.frames, example.stride) == (
                settled.plan.sampling.window,
                settled.plan.sampling.stride,
            )
            assert example.fps == settled.plan.sound.rate_hz == settled.plan.sampling.fps and example.reads
            continue
        if settled.plan.words is not None:
            assert example.fps == 0 and example.reads
            continue
        sampling, (height, width, _) = settled.plan.sampling, settled.plan.frames.shape
        assert settled.choice.fps == sampling.fps > 0
        said = (example.frames, example.size, example.fps, example.stride)
        read = (
            sampling.window,
            height if height == width else (height, width),
            sampling.fps,
            sampling.stride,
        )
        assert said == read, "what `onepass streams` says without settling"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=openclip:ViT-B-32", "there is no kind 'openclip'; did you mean open_clip"),
        ("a=open_clip:ViT-B32", "model=ViT-B32: open_clip has no such model; did you mean ViT-B-32"),
        ("a=open_clip:ViT-B-32,fsp=2", "open_clip has no key 'fsp'; did you mean fps"),
        ("a=open_clip:ViT-B-32,stride=2", "--stream a: stride=2: open_clip streams have no such setting"),
        ("a=motion,weights=w.pt", "--stream a: weights=w.pt: motion streams have no weights"),
        ("a=motion:flow", "motion has no such model"),
        ("a=motion,stride=7", "--stream a: stride=7: between 1 and 6"),
        ("a=motion,precision=bf16", "--stream a: precision=bf16: motion streams have no such setting"),
        ("a=logmel,precision=bf16", "--stream a: precision=bf16: logmel streams have no such setting"),
        ("a=motion,runtime=torch", "--stream a: runtime=torch: motion streams have no such setting"),
        ("a=mc,fps=2", "there is no kind 'mc'; choose from open_clip, timm"),
        ("a=pytorchvideo:qqqq", "model=qqqq: pytorchvideo has no such model; choose from slowfast_r50"),
        ("a=timm:qqqq", "model=qqqq: timm has no such model"),
        ("a=timm:resnet50,qqq=2", "timm has no key 'qqq'; choose from weights, tag, seed"),
        ("a=pytorchvideo:x3d_xs,precision=foo", "--stream a: precision=foo: choose auto, fp32, bf16, fp16"),
        (
            "a=pytorchvideo:x3d_xs,runtime=foo",
            "--stream a: runtime=foo: choose auto, torch, openvino, compile",
        ),
        ("a=pytorchvideo:x3d_xs,weights=/tmp/", "--stream a: weights=/tmp/: is a folder; give the file"),
        ("slowfast,weights=no/w.pt", "--slowfast-weights no/w.pt: no such file"),
    ],
)
def test_what_a_kind_does_not_know_is_said_in_a_line(text: str, says: str) -> None:
    with pytest.raises((InputError, WeightsError)) as caught:
        settle(parse_stream(text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_only_what_is_really_near_is_offered() -> None:
    assert near("resent50", ["resnet50", "swin_tiny"]) == "; did you mean resnet50?"
    assert near("fsp", ["fps", "seed"]) == "; did you mean fps?"
    assert near("qqqq", ["fps", "seed"]) == "; choose from fps, seed"
    many = [f"convnext_{number}" for number in range(100)]
    assert near("banana", many) == near("nonsense", many) == ""


def test_random_weights_for_all_pass_over_a_stream_without_any() -> None:
    assert settle(parse_stream("a=motion,weights=random")).choice.weights == ""


def test_a_kind_of_another_package_is_named_where_it_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_package.streams:Kind", kinds.ENTRY_POINTS)
    monkeypatch.setattr(kinds, "entry_points", lambda **_: (broken,))
    monkeypatch.setattr(kinds, "kind_names", lambda: (*OWN_KINDS, "broken"))
    with pytest.raises(InputError, match=r"the kind 'broken' of no_such_package\.streams:Kind does not load"):
        kind_named.__wrapped__("broken")


def test_a_fingerprint_leads_back_to_the_choice() -> None:
    fields: dict[str, Any] = {
        "stream": "siglip",
        "kind": "open_clip",
        "model": "ViT-B-16-SigLIP2",
        "weights": {"tag": "file", "digest": "sha256:0", "published_as": "webli"},
        "sampling": {"fps": 4.0, "window": 1, "stride": 1},
        "precision": "fp32",
        "runtime": "torch",
    }
    found = choice_from_fingerprint("siglip", fields, file="w.pt")
    assert found == StreamChoice(
        *("siglip", "open_clip", "ViT-B-16-SigLIP2", "w.pt", "webli"),
        fps=4.0,
        precision="fp32",
        runtime="torch",
    )
    with pytest.raises(InputError, match="say where it lies with --weights-file siglip=FILE"):
        choice_from_fingerprint("siglip", fields)
    with pytest.raises(InputError, match="not by a kind of stream that is installed here"):
        choice_from_fingerprint("siglip", fields | {"kind": "elsewhere"}, file="w.pt")
