"""Streams as typed and as written in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import InputError
from pipeline.backbones.choice import (
    RECIPES,
    StreamChoice,
    choose_streams,
    parse_stream,
    read_recipe,
    recipe_of,
)


def test_a_recipe_by_its_name_and_a_stream_described() -> None:
    assert parse_stream("clip") == StreamChoice("clip", "open_clip", "ViT-B-32", weights="openai")
    found = parse_stream("image=timm:resnet50, weights=random, seed=7, fps=2.5, stride=3, size=160, pool=avg")
    assert found == StreamChoice(
        *("image", "timm", "resnet50", "random"),
        seed=7,
        fps=2.5,
        stride=3,
        size=160,
        options=(("pool", "avg"),),
    )
    assert parse_stream(str(found)) == found
    assert parse_stream("clip,fps=4").fps == 4.0
    hub = parse_stream("v=transformers:facebook/vjepa2-vitl-fpc64-256")
    assert hub.model == "facebook/vjepa2-vitl-fpc64-256"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_themselves_again(name: str) -> None:
    assert parse_stream(str(parse_stream(name))) == parse_stream(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clipp", "--streams clipp: no such stream; did you mean clip?, or describe"),
        (
            "qqqq",
            "--streams qqqq: no such stream; choose from clip, slowfast, image, motion, audio, text, or describe",
        ),
        ("image=", "write NAME=KIND:MODEL"),
        ("=timm:resnet50", "write NAME=KIND:MODEL"),
        ("image=timm:resnet50,fps", "'fps' is no key=value"),
        ("image=timm:resnet50,fps=", "'fps=' is no key=value"),
        ("image=timm:resnet50,fps=2,fps=3", "fps is given twice"),
        ("image=timm:resnet50,fps=fast", "--stream image: fps=fast: must be a number"),
        ("image=timm:resnet50,fps=nan", "must be a number"),
        ("image=timm:resnet50,fps=-2", "must be positive"),
        ("image=timm:resnet50,fps=2000", "above 0 and at most 1000"),
        ("image=timm:resnet50,seed=1.5", "must be a whole number"),
        ("image=timm:resnet50,seed=1_0", "must be a whole number"),
        ("image=timm:resnet50,fps=٣", "must be a number"),
        ("image=timm:resnet50,stride=0", "must be positive"),
        ("image=timm:resnet50,size=100000", "between 1 and 4096 pixels"),
        ("Image=timm:resnet50", "a stream's name is lower-case letters"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_stream(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_holds_for_all_yields_to_what_a_stream_says() -> None:
    asked = ("slowfast", "own=timm:resnet50,weights=w.pt", "clip")
    clip, slowfast, own = choose_streams(asked, weights="random", seed=4, clip_fps=1.0, slowfast_stride=8)
    assert (clip.name, slowfast.name, own.name) == ("clip", "slowfast", "own")  # whatever the order of asking
    assert (clip.weights, slowfast.weights, own.weights) == ("random", "random", "w.pt")
    assert (clip.fps, slowfast.stride, clip.seed) == (1.0, 8, 4)
    (zero,) = choose_streams(("own=timm:resnet50,seed=0",), seed=4)
    assert zero.seed == 0
    (tagged,) = choose_streams(("clip",), clip_weights="w.pt", clip_tag="openai", weights="random")
    assert (tagged.weights, tagged.tag) == ("w.pt", "openai")
    two = ("clip", "motion")
    assert choose_streams(iter(two)) == choose_streams(two)
    for twice in (("clip", "clip"), ("clip", "clip=timm:resnet50")):
        with pytest.raises(InputError, match="each stream once"):
            choose_streams(twice)


def test_flags_of_the_built_in_recipes_are_named_only_for_them() -> None:
    assert parse_stream("clip").setting("weights", "w.pt") == "--clip-weights w.pt"
    assert parse_stream("clip=timm:resnet50").setting("weights", "w.pt") == "--stream clip: weights=w.pt"
    assert parse_stream("clip").setting("seed", 3) == "--stream clip: seed=3"


def test_a_recipe_is_the_same_written_down(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "streams:\n  image: {kind: timm, model: resnet50, fps: 4, pool: avg}\n  motion: {kind: motion}\n"
    )
    found = read_recipe(path)
    assert found == (parse_stream("image=timm:resnet50,fps=4,pool=avg"), parse_stream("motion"))
    assert recipe_of(found)["streams"]["image"] == {
        "kind": "timm",
        "model": "resnet50",
        "fps": 4.0,
        "pool": "avg",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no streams"),
        ("streams: {}", "holds no streams"),
        ("streams: [clip]", "holds no streams"),
        ("streams: {a: {kind: timm}}\nvideos: x", "knows streams only, not videos"),
        ("streams: {a: timm}", "stream a needs a kind"),
        ("streams: {a: {kind: timm, fps: [1]}}", "fps must be a text or a number"),
        ("streams: {a: {kind: timm, fps: fast}}", "must be a number"),
        ("streams: {a: [", "cannot be read"),
        ("streams:\n  a: {kind: motion}\n  a: {kind: motion, fps: 5}", "a stands twice"),
        ("streams: {a: {kind: motion, fps: 5, fps: 7}}", "fps stands twice"),
        ("x: 2026-99-99", "cannot be read"),
        ("streams: {a: {kind: motion, seed: .inf}}", "must be a whole number"),
        ("streams: {a: {kind: motion, stride: 2.9}}", "must be a whole number"),
        (f"streams: {{a: {{kind: motion, fps: {'9' * 400}}}}}", "must be a number"),
        ("[" * 20000, "cannot be read"),
    ],
)
def test_a_recipe_that_is_none(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_recipe(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
