from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cache.errors import HeadError, InputError
from cache.reader import open_cache
from heads.cli.export import export_onnx_command
from heads.data.tokens import TokenBatch
from heads.train import train_head
from heads.trained.export import compare_with_torch, example_inputs, export_onnx, input_names
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.slow

RECIPES = {
    "attention-pool": {"model": "attention-pool", "scaling": "standard"},
    "linear": {"model": "linear", "pool": "max", "scaling": "l2"},
    "mlp": {"model": "mlp", "width": 8, "scaling": "none"},
    "transformer": {"model": "transformer", "n_heads": 2, "feedforward": 16, "pool": "cls"},
    "projected transformer": {"model": "transformer", "width": 6, "n_heads": 2, "pool": "attention"},
    "fusion": {"model": "fusion", "width": 8, "depth": 1, "n_heads": 2},
    "fusion of one stream": {"model": "fusion", "width": 8, "depth": 1, "streams": "clip", "pool": "max"},
}
SHAPES = ((1, 1), (5, 1), (1, 2), (3, 13), (40, 6), (1, 5000))


@pytest.fixture(scope="module")
def exported(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TrainedHead, Path]]:
    base = TrainConfig().updated({"epochs": 1, "n_resamples": 0})
    folder = tmp_path_factory.mktemp("onnx")
    with open_cache(toy_path) as cache:
        heads = {name: train_head(cache, base.updated(recipe)) for name, recipe in RECIPES.items()}
    return {name: (head, export_onnx(head, folder / f"{name}.onnx")) for name, head in heads.items()}


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_head_is_the_same_in_onnxruntime(
    exported: dict[str, tuple[TrainedHead, Path]], name: str
) -> None:
    head, path = exported[name]
    compared = compare_with_torch(head, path, shapes=SHAPES)
    assert compared.n_shapes == len(SHAPES)
    assert compared.logit < 1e-4


@pytest.mark.parametrize("name", ["transformer", "fusion"])
def test_padding_has_no_meaning(exported: dict[str, tuple[TrainedHead, Path]], name: str) -> None:
    head, path = exported[name]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {key: value.numpy() for key, value in example_inputs(head, batch=4, length=9).items()}
    clean = session.run(None, inputs)
    for key, mask in list(inputs.items()):
        if key.endswith("mask"):
            inputs[key.replace("mask", "tokens")][~mask] = np.nan
            if name == "fusion":
                inputs[key.replace("mask", "times")][~mask] = 1e9
    np.testing.assert_array_equal(session.run(None, inputs), clean)


def test_the_graph_gives_what_the_head_predicts(
    exported: dict[str, tuple[TrainedHead, Path]], toy_path: Path
) -> None:
    head, path = exported["fusion of one stream"]
    with open_cache(toy_path) as cache:
        tokens = cache.tokens("clip", 3)
        expected = head.predict({"clip": tokens}).probabilities
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    probability, logit = session.run(
        None,
        {
            "clip_tokens": tokens.values[None].astype(np.float32),
            "clip_mask": np.ones((1, len(tokens.values)), dtype=bool),
            "clip_times": tokens.spans.mean(axis=1)[None],
        },
    )
    np.testing.assert_allclose(probability, expected, rtol=1e-5)
    np.testing.assert_allclose(head.probabilities(logit.astype(np.float64)), expected, rtol=1e-5)


def test_the_file_says_what_it_is(exported: dict[str, tuple[TrainedHead, Path]]) -> None:
    head, path = exported["fusion"]
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    values = json.loads(found["onepass"])
    assert values["threshold"] == head.info.threshold.threshold
    assert values["random_weights"] is True
    assert [stream["name"] for stream in values["streams"]] == ["clip", "slowfast"]
    assert [i.name for i in model.graph.input] == input_names(head)
    assert input_names(head)[:3] == ["clip_tokens", "clip_mask", "clip_times"]
    assert not list(path.parent.glob("*.part"))


def test_a_graph_of_another_head_is_noticed(exported: dict[str, tuple[TrainedHead, Path]]) -> None:
    head, _ = exported["attention-pool"]
    with pytest.raises(HeadError, match="differ by"):
        compare_with_torch(head, exported["mlp"][1])


def test_what_cannot_be_is_said(
    exported: dict[str, tuple[TrainedHead, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, path = exported["linear"]
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export_onnx(head, tmp_path / "head.pt")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="needs torch 2.8 or newer"):
        patch.setattr(torch, "__version__", "2.7.1")
        export_onnx(head, tmp_path / "head.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onepass\[onnx\]"):
        export_onnx(head, tmp_path / "head.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onepass\[onnx\]"):
        compare_with_torch(head, path)


def test_examples_are_batches_that_heads_take(exported: dict[str, tuple[TrainedHead, Path]]) -> None:
    head, _ = exported["fusion"]
    inputs = list(example_inputs(head, batch=2, length=5).values())
    channels = [TokenBatch(*inputs[i : i + 3]) for i in (0, 3)]
    assert channels[1].values.shape[1] == 6
    with torch.no_grad():
        assert head.model.logits(channels).shape == (2,)


def test_the_command(exported: dict[str, tuple[TrainedHead, Path]], tmp_path: Path) -> None:
    import typer

    head, _ = exported["attention-pool"]
    app = typer.Typer()
    app.command()(export_onnx_command)
    folder, out = head.save(tmp_path / "h"), tmp_path / "deep" / "h.onnx"
    result = CliRunner().invoke(app, ["--head", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.is_file()
    assert "onnxruntime against torch on 5 shapes" in result.output
    assert "RANDOM backbone weights" in result.output
