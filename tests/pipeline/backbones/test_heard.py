"""Models that hear: equal to the library's own feature extractor and network run plainly, and settled before weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import InputError
from cache.reader import open_cache
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.families import FAMILIES
from pipeline.backbones.heard import KEYS
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds import transformers as kind
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.sound_families import SOUND_FAMILIES
from pipeline.decoding.sampling import window_starts
from pipeline.verify import check_weights, compare_video, verdicts
from tests.pipeline.backbones.conftest import relative_error
from tests.pipeline.backbones.flops import gflop
from tests.pipeline.trees import run
from tests.sounds import tone, write_with_sound
from tests.videos import write_video

transformers = pytest.importorskip("transformers")
from tests.pipeline.backbones.hearing_models import MODELS, save  # noqa: E402

LENGTHS = {"a whole window": 1.0, "a third": 0.33, "as little as there may be": 0.025}
"""Shares of a window: sound may be shorter than one."""
WIDTHS = {"ast": 32, "clap": 16, "clap-fused": 16, "wav2vec2": 32, "wav2vec2-large": 32, "hubert": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, name) for name in MODELS}


def loaded(text: str, runtime: str = "torch") -> Any:
    config = BackboneConfig.of(
        (text,), device="cpu", precision="fp32", runtime=runtime, batch_sizes=(("a", 3),)
    )
    return load_backbones(config)["a"]


def windows_of(backbone: Any) -> list[np.ndarray[Any, Any]]:
    """Other sound in each, of every length."""
    sampling = backbone.plan.sampling
    rng = np.random.default_rng(0)
    found = []
    for place, share in enumerate(LENGTHS.values()):
        count = max(800, round(share * sampling.window))
        noise = rng.normal(scale=0.05, size=count)
        found.append(tone(count / sampling.fps, round(sampling.fps), hz=200 * 2**place)[:count] + noise)
    return [window.astype(np.float32) for window in found]


def worst_error(backbone: Any) -> float:
    """Of a batch of three windows against each run alone by the library."""
    windows = windows_of(backbone)
    batch = torch.from_numpy(np.stack([backbone.plan.prepared(window) for window in windows]))
    found = backbone.embed(batch)
    assert found.shape == (3, backbone.dim) and found.dtype == torch.float32
    plain = [backbone.embed_plainly([window]) for window in windows]
    assert relative_error(plain[0], plain[1]) > 0.01, "all features alike: nothing is compared"
    return max(relative_error(one.numpy(), other) for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_parity_with_the_library(name: str, folders: dict[str, Path]) -> None:
    backbone = loaded(f"a=transformers:{folders[name]}")
    assert backbone.dim == WIDTHS[name] and worst_error(backbone) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_parity_by_openvino(name: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    assert worst_error(loaded(f"a=transformers:{folders[name]}", "openvino")) < 1e-3


def test_the_library_is_asked_as_its_pages_ask_it(folders: dict[str, Path]) -> None:
    """`embed_plainly` is the reference of `verify`: here without any code of this project."""
    auto = transformers.AutoModel, transformers.AutoFeatureExtractor
    with kind._quietly():
        model, extractor = (each.from_pretrained(folders["clap"]) for each in auto)
    backbone = loaded(f"a=transformers:{folders['clap']}")
    (window, *_) = windows_of(backbone)
    with torch.no_grad():
        given = extractor(window, sampling_rate=16_000, return_tensors="pt")
        whole = model.eval().get_audio_features(**given).pooler_output[0]
    found = torch.from_numpy(backbone.embed_plainly([window]))
    torch.testing.assert_close(found / found.norm(), whole / whole.norm())
    with kind._quietly():
        hubert, extractor = (each.from_pretrained(folders["hubert"]) for each in auto)
    backbone = loaded(f"a=transformers:{folders['hubert']}")
    (window, *_) = windows_of(backbone)
    with torch.no_grad():
        given = extractor(window, sampling_rate=16_000, return_tensors="pt")
        states = hubert.eval()(**given).last_hidden_state
    np.testing.assert_allclose(
        backbone.embed_plainly([window]), states[0].mean(0).numpy(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "rate", "window", "seconds"),
    [("ast", 16_000, 20_480, 1.28), ("clap", 16_000, 32_000, 2.0), ("wav2vec2", 16_000, 32_000, 2.0)],
)
def test_rate_and_window_are_the_model_s_own(
    name: str,
    rate: int,
    window: int,
    seconds: float,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kind, "load_model", None)  # no weights are needed to know
    settled = settle(parse_stream(f"a=transformers:{folders[name]}"))
    assert settled.plan.sound is not None and settled.plan.sound.rate_hz == rate == settled.plan.sampling.fps
    assert settled.plan.sampling.window == window and settled.sampling["window_seconds"] == seconds
    assert settled.preprocessing["extractor"]["sampling_rate"] == rate
    chosen = settle(parse_stream(f"a=transformers:{folders[name]},window=1,every=0.25,track=1"))
    assert (chosen.plan.sampling.window, chosen.plan.sampling.stride) == (rate, rate // 4)
    assert chosen.plan.sound is not None and chosen.plan.sound.track == 1


def test_published_sizes() -> None:
    """By the library's own descriptions, which are those of the published base models."""
    found = {
        name: settle(parse_stream(f"a=transformers:{name},weights=random")).plan for name in SOUND_FAMILIES
    }
    seconds = {name: plan.sampling.window / plan.sampling.fps for name, plan in found.items()}
    assert seconds == {"audio-spectrogram-transformer": 10.24, "clap": 10.0, "wav2vec2": 2.0, "hubert": 2.0}
    assert found["audio-spectrogram-transformer"].token_shape == (1024, 128)
    assert found["clap"].token_shape == (1001, 64) and found["clap"].sampling.fps == 48_000


def test_a_model_either_sees_or_hears() -> None:
    assert not FAMILIES.keys() & SOUND_FAMILIES.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a=transformers:{ast},fps=2",
            r"fps=2.0: audio-spectrogram-transformer reads sound; say window=SECONDS",
        ),
        ("a=transformers:{ast},window=2", "window=2: seconds, between 0.5 and 1.28"),
        ("a=transformers:{wav2vec2},every=3", "every=3: seconds, between"),
        ("a=transformers:{wav2vec2},every=x", "every=x: seconds, between"),
        ("a=transformers:{wav2vec2},track=-1", "track=-1: the number of an audio stream"),
        ("a=transformers:vit,weights=random,window=2", "vit reads pictures; say fps= and stride="),
    ],
)
def test_what_cannot_be_is_said_in_a_line(text: str, says: str, folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=says) as caught:
        settle(parse_stream(text.format(**folders)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said", "says"),
    [
        ("ast", {"sampling_rate": 8000}, "asks for 8000 Hz, not 16000"),
        ("ast", {"max_length": 64}, "makes 64 frames of 32 bands, while the model takes 128 of 32"),
        ("clap", {"truncation": "fusion"}, "truncates by fusion, while the model has enable_fusion False"),
        ("clap", {"feature_size": 20}, "makes 20 bands, while the model takes 16"),
        ("clap", {"padding": "loop"}, "pads short sound by loop"),
        ("wav2vec2", {"feature_size": 2}, "makes 2 numbers of a sample"),
        ("wav2vec2", {"padding_value": 1.0}, "pads with 1.0"),
    ],
)
def test_extractors_that_are_not_followed(name: str, said: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        settle(parse_stream(f"a=transformers:{save(tmp_path, name, **said)}"))


def test_sound_is_extracted_verified_and_found_again(folders: dict[str, Path], tmp_path: Path) -> None:
    """Beside pictures, on their clock; a video without sound lacks the stream, with the reason."""
    src = tmp_path / "data"
    long = write_with_sound(
        src / "a.mkv", codec="pcm_s16le", sample_format="s16", seconds=3.0, at_seconds=(1.0,)
    )
    write_video(src / "mute.mp4", seconds=1.0)
    asked = (f"a=transformers:{folders['wav2vec2']},window=1,every=0.75", "motion")
    config = BackboneConfig.of(asked, device="cpu", precision="fp32", runtime="torch")
    report = run(src, tmp_path / "c.zarr", backbones=config, dtype="float32")
    assert report.adds_up and report.stored == 2 and report.absent == {"a: no audio stream": 1}
    with open_cache(tmp_path / "c.zarr") as cache:
        prints = {name: info.fingerprint for name, info in cache.streams.items()}
        assert cache.streams["a"].optional and prints["a"]["options"] == {"every": "0.75", "window": "1"}
        assert str(tmp_path) not in json.dumps(prints) and prints["a"]["weights"]["tag"] == "file"
        tokens = cache.tokens("a", cache.videos.id.tolist().index("a.mkv"))
        assert tokens.spans.tolist() == [[0, 1], [0.75, 1.75], [1.5, 2.5], [2.0, 3.0]]
        again = config_from_fingerprints(prints, files={"a": str(folders["wav2vec2"])}, device="cpu")
        backbones = load_backbones(again)
        assert backbones["a"].plan == load_backbones(config)["a"].plan
        check_weights(cache, backbones)
        verified = compare_video(
            cache, cache.videos.id.tolist().index("a.mkv"), long, backbones, rng=np.random.default_rng(0)
        )
        found = next(v for v in verdicts(cache, list(verified.comparisons)) if v.stream == "a")
        assert found.ok and found.n_tokens == 4 and not verified.misplaced
    assert len(window_starts(48_000, backbones["a"].plan.sampling)) == 4


def test_the_keys_are_told() -> None:
    assert set(kind.KIND.keys) >= set(KEYS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "example", [e for e in kind.KIND.examples() if e.reads.endswith("of sound")], ids=str
)
def test_examples_are_as_wide_and_as_dear_as_said(example: Any) -> None:
    settled = settle(parse_stream(example.choice))
    family, config = SOUND_FAMILIES[settled.found["config"].model_type], settled.found["config"]
    assert settled.plan.sampling.window == example.frames
    model = family.build(config).eval()
    given = torch.zeros(1, *settled.plan.token_shape)
    shape, found = gflop(lambda x: family.take(model, x), given)
    assert shape == (1, example.width) and found == pytest.approx(example.gflop, rel=0.01)
