"""`--gpu-engine compile` on a stand-in for a device: within the bound, whole batches only, named in the fingerprint, and what

goes wrong is one sentence. torch's tracer is real here, its compiler is not asked: `eager` runs what was traced as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from packaging.version import Version

from cache.errors import DeviceError, InputError
from cache.fingerprint import differences
from pipeline.backbones import compiled as module
from pipeline.backbones import runtime, slowfast_planes
from pipeline.backbones.batching import StreamRunner
from pipeline.backbones.compiled import compiled
from pipeline.backbones.engine import Engine
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.runtime import resolve_runtime
from tests.pipeline.backbones.conftest import quietly
from tests.pipeline.backbones.test_batching import windows
from tests.pipeline.backbones.test_graph import recorded as recorded
from tests.pipeline.fake_cuda import fake_cuda
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import TinyBackbone

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WEIGHTS = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7 + 1


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "BACKEND", "eager")
    yield
    torch.compiler.reset()


def forward(frames_BTHWC: torch.Tensor) -> torch.Tensor:
    return frames_BTHWC.to(torch.float32).mean(dim=(1, 2, 3)) @ WEIGHTS


def blank(n: int) -> torch.Tensor:
    return torch.zeros(n, 1, 8, 8, 3, dtype=torch.uint8)


def frames(n: int) -> torch.Tensor:
    return torch.randint(0, 256, blank(n).shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())


def engine(of: Callable[[torch.Tensor], torch.Tensor] = forward) -> Engine:
    return Engine(
        of,
        blank,
        batch_size=4,
        device=CPU,
        precision="fp32",
        runtime="compile",
        name="means",
        weights_key="means 1",
    )


def test_it_runs_whole_batches_only(recorded: list[int], on_cpu: None) -> None:
    passes: list[int] = []

    def counted(frames_BTHWC: torch.Tensor) -> torch.Tensor:
        passes.append(len(frames_BTHWC))
        return forward(frames_BTHWC)

    made = engine(counted)
    assert made.feature_width() == 4
    torch.testing.assert_close(made(frames(11)), forward(frames(11)))
    assert recorded == [4] and set(passes) == {4}


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.5"),
    reason="torch's tracer read no slots before, as the stand-in has",
)
def test_tokens_pass_through_launcher_and_runner(
    recorded: list[int], on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TinyBackbone(PLANS[1], batch_size=1)
    expected = np.concatenate([plain.embed(torch.from_numpy(windows(1, n))) for n in range(10)])
    shape = plain.plan.token_shape
    fast = TinyBackbone(PLANS[1], batch_size=4)
    own = Engine(
        TinyBackbone(PLANS[1], batch_size=4).embed,
        lambda n: torch.zeros(n, *shape, dtype=torch.from_numpy(windows(1, 0)).dtype),
        batch_size=4,
        device=CPU,
        precision="fp32",
        runtime="compile",
        name="tiny",
        weights_key="tiny",
    )
    monkeypatch.setattr(fast, "embed", own)
    with fake_cuda(monkeypatch):
        runner = StreamRunner(fast, device=CUDA)
        lent = [runner.add(0, 0, n, windows(1, n)) for n in range(10)]
        runner.flush()
        found = dict(runner.results())
    assert all(read is not None and read() for read in lent)
    np.testing.assert_allclose(np.stack([found[0, 0, n] for n in range(10)]), expected, rtol=1e-5)
    assert recorded == [3]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_noise_comes_from_the_processor_whatever_device_is_the_default(dtype: torch.dtype) -> None:
    """Passes are compiled with their device as the default, on which the processor's generator draws nothing."""
    blank = torch.zeros(2, 3, dtype=dtype)
    with torch.device("meta"):
        found = module._noise(blank)
    assert found.device == CPU and found.dtype == dtype and len(found.unique()) > 1
    torch.testing.assert_close(found, module._noise(blank))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x, _: x * 1.01, "a relative error of 0.01, at most 0.001"),
        (lambda x, _: x * float("nan"), "not the same bits"),
        (lambda x, calls: x + calls, "not the same bits when a batch is run again"),
        (lambda x, _: x + torch.arange(len(x))[:, None], "in another order"),
    ],
)
def test_what_is_wrong_is_refused(wrong: Callable[..., torch.Tensor], said: str) -> None:
    calls = [0]

    def backend(traced: Any, _: Any) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            calls[0] += 1
            return tuple(wrong(out, calls[0]) for out in traced(*given))

        return run

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DeviceError, match=said) as refused:
        patch.setattr(module, "BACKEND", backend)
        compiled(forward, blank(3), name="means", precision="fp32")
    assert str(refused.value).endswith("use --gpu-engine graph") and refused.value.exit_code == 4


def test_bf16_is_held_to_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by(share: float) -> Callable[..., Any]:
        first = torch.tensor([1.0, 0, 0, 0])
        return lambda traced, _: lambda *given: tuple(o + share * first for o in traced(*given))

    monkeypatch.setattr(module, "BACKEND", off_by(1.0))
    compiled(forward, blank(3), name="means", precision="bf16")
    monkeypatch.setattr(module, "BACKEND", off_by(1e3))
    with pytest.raises(DeviceError, match=r"a cosine of 0\.\d+, at least 0.999"):
        compiled(forward, blank(3), name="means", precision="bf16")


def test_what_the_compiler_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("\nCannot find a working triton installation.\nMore lines of that")

    monkeypatch.setattr(module, "BACKEND", backend)
    with pytest.raises(
        DeviceError, match=r"\(RuntimeError: Cannot find a working triton installation\.\): use"
    ):
        compiled(forward, blank(2), name="means", precision="fp32")


def test_a_pass_that_cannot_be_traced_is_named() -> None:
    def asks_for_a_value(x: torch.Tensor) -> torch.Tensor:
        return forward(x) if x.sum().item() > 0 else forward(x) * 2

    with pytest.raises(
        DeviceError, match=r"--gpu-engine compile: means cannot be compiled with torch \S+ here"
    ):
        compiled(asks_for_a_value, blank(2), name="means", precision="fp32")


def test_a_full_device_says_which_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        def run(*_: Any) -> Any:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        return run

    monkeypatch.setattr(module, "BACKEND", backend)
    with pytest.raises(DeviceError, match="--batch means=1"):
        compiled(forward, blank(2), name="means", precision="fp32")


def test_a_switched_off_compiler_is_not_mistaken_for_one() -> None:
    off = torch._dynamo.config.patch(disable=True)
    with off, pytest.raises(DeviceError, match="TORCH_COMPILE_DISABLE"):
        compiled(forward, blank(2), name="means", precision="fp32")


def test_more_passes_than_torch_would_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream of a network shares one function's code, of which torch compiles 8 before it gives up."""
    monkeypatch.setattr(module, "MOST_PASSES", 12)
    scales = [float(n) for n in range(1, 11)]
    made = [
        compiled(lambda x, scale=scale: forward(x) * scale, blank(1), name="m", precision="fp32")
        for scale in scales
    ]
    for scale, each in zip(scales, made, strict=True):
        torch.testing.assert_close(each(frames(1)), forward(frames(1)) * scale)


def test_where_it_is_asked_for() -> None:
    assert resolve_runtime("compile", CUDA) == "compile"
    config = BackboneConfig.of(("motion",), device="cpu", gpu_engine="compile")
    with pytest.raises(
        InputError, match="--gpu-engine compile needs a CUDA device, and the models run on the cpu here"
    ):
        config.resolved_runtime(config.streams[0])
    with pytest.raises(InputError, match="--gpu-engine compile with --runtime openvino: choose one"):
        BackboneConfig.of(gpu_engine="compile", runtime="openvino")


def test_a_fingerprint_names_it_and_asks_for_it_again(
    recorded: list[int], on_cpu: None, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "resolve_runtime", lambda runtime, *_, **__: runtime)
        made = {
            name: quietly(
                lambda name=name: load_backbones(
                    BackboneConfig.of(
                        ("clip",),
                        clip_model=tiny_model,
                        weights="random",
                        device="cpu",
                        precision="fp32",
                        runtime="torch",
                        gpu_engine=name,
                        batch_sizes=(("clip", 2),),
                    )
                )["clip"]
            )
            for name in ("graph", "compile")
        }
    graph_fields, fields = (made[name].fingerprint() for name in ("graph", "compile"))
    runtime_differs, triton = differences(fields, graph_fields)
    assert runtime_differs == "runtime: compile here, torch there" and triton.startswith("libraries.triton:")
    again = config_from_fingerprints({"clip": fields}, device="cpu")
    assert again.streams[0].runtime == "compile" and again.gpu_engine == "graph"
    with pytest.raises(InputError, match="--stream clip: runtime=compile needs a CUDA device"):
        load_backbones(again)
    batch = torch.randint(0, 256, (3, 1, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(made["compile"].embed(batch), made["graph"].embed(batch))


def test_the_fused_convolution_is_described_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)

    def planes(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)

    given = planes(2, 8, 16, 12), planes(16, 8, 3, 3)
    for plus in (None, planes(2, 16, 8, 6)):
        asked = (*given, plus, torch.ones(16), [2, 2], [1, 1])
        torch.library.opcheck(slowfast_planes._opaque, asked, test_utils=("test_schema", "test_faketensor"))
