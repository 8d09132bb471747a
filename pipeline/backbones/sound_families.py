"""Model types of Hugging Face transformers that hear: what each is given, and what stands for a window of sound in it.

One table, SOUND_FAMILIES, by the `model_type` of a config; which type a model is of decides whether its stream reads sound or
pictures. Rates, lengths and bands are those of the model's own feature extractor. Shapes: B batch, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.decoding.spectrogram import Prepared, Spectrogram, Waveform

if TYPE_CHECKING:
    import torch

WAVEFORM_SECONDS = 2.0
"""Of a token of wav2vec 2.0 and HuBERT, which take any length and whose extractors name none: about that of a window of SlowFast
(64/30 s), this project's own choice."""
LONGEST_WAVEFORM_SECONDS = 30.0
AST_HZ, AST_FRAME, AST_HOP, AST_FFT = 16_000, 400, 160, 512
"""Fixed in `ASTFeatureExtractor._extract_fbank_features`: Kaldi's filter banks of 25 ms every 10 ms at 16 kHz."""
AST_LOWEST_HZ, AST_PREEMPHASIS, AST_FLOOR = 20.0, 0.97, 1.192092955078125e-07
"""The same place: `min_frequency`, `preemphasis` and `mel_floor`."""
CLAP_FLOOR = 1e-10
"""`mel_floor` and `min_value` of `transformers.audio_utils`, which `ClapFeatureExtractor` leaves as they are."""


class NotPrepared(Exception):
    """The feature extractor says what is not done here; the text is how the sentence goes on."""


@dataclass(frozen=True, slots=True)
class SoundFamily:
    """One model type: its class and feature extractor in transformers, what is taken as the feature and how that is said.

    take: (model, prepared windows [B, ...]) to features [B, D]. prepared: (config, extractor, samples of a window) to what
    workers make of it; raises NotPrepared. longest_seconds: of a window, by the extractor. window_seconds: of a window where the
    user names none; 0: the longest. constants: attributes of the extractor that change a feature. faster: prepares a copy of the
    network for batches. unused: parts that the feature does not need. part: of the config, where it is one. defaults: of the
    extractor beside the library's default description.
    """

    network: str
    processor: str
    take: Callable[[Any, torch.Tensor], torch.Tensor]
    feature: str
    prepared: Callable[[Any, Any, int], Prepared]
    longest_seconds: Callable[[Any], float]
    constants: tuple[str, ...]
    window_seconds: float = 0.0
    faster: Callable[[torch.nn.Module], torch.nn.Module] = lambda module: module
    unused: tuple[str, ...] = ()
    part: str = ""
    defaults: tuple[tuple[str, Any], ...] = ()

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Of the class: none."""
        return ()

    def processor_class(self) -> Any:
        """The library's feature extractor."""
        import transformers

        return getattr(transformers, self.processor)

    def build(self, config: Any) -> Any:
        """The network with random weights."""
        import transformers

        return getattr(transformers, self.network)(getattr(config, self.part) if self.part else config)


def _require(said: bool, what: str) -> None:
    if not said:
        raise NotPrepared(what)


def _ast_prepared(config: Any, extractor: Any, n_samples: int) -> Spectrogram:
    from transformers.audio_utils import mel_filter_bank, window_function

    bands, frames = int(extractor.num_mel_bins), int(extractor.max_length)
    _require(extractor.sampling_rate == AST_HZ, f"asks for {extractor.sampling_rate} Hz, not {AST_HZ}")
    _require(
        (bands, frames) == (config.num_mel_bins, config.max_length),
        f"makes {frames} frames of {bands} bands, while the model takes {config.max_length} of {config.num_mel_bins}",
    )
    mel = mel_filter_bank(
        num_frequency_bins=AST_FFT // 2 + 1,
        num_mel_filters=bands,
        min_frequency=AST_LOWEST_HZ,
        max_frequency=AST_HZ // 2,
        sampling_rate=AST_HZ,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    shift, scale = (extractor.mean, 1 / (2 * extractor.std)) if extractor.do_normalize else (0.0, 1.0)
    return Spectrogram(
        n_samples,
        frames,
        bands,
        frame_samples=AST_FRAME,
        hop_samples=AST_HOP,
        fft_samples=AST_FFT,
        taper=_bytes(window_function(AST_FRAME, "hann", periodic=False)),
        mel=_bytes(mel),
        centred=False,
        preemphasis=AST_PREEMPHASIS,
        level=True,
        floor=AST_FLOOR,
        decibels=False,
        short="frames",
        shift=float(shift),
        scale=float(scale),
    )


def _clap_prepared(config: Any, extractor: Any, n_samples: int) -> Spectrogram:
    from transformers.audio_utils import window_function

    fused = bool(config.audio_config.enable_fusion)
    _require(
        extractor.truncation == ("fusion" if fused else "rand_trunc"),
        f"truncates by {extractor.truncation}, while the model has enable_fusion {fused}",
    )
    _require(extractor.padding in ("repeatpad", "repeat", "pad"), f"pads short sound by {extractor.padding}")
    _require(
        extractor.feature_size == config.audio_config.num_mel_bins,
        f"makes {extractor.feature_size} bands, while the model takes {config.audio_config.num_mel_bins}",
    )
    longest, frame = int(extractor.nb_max_samples), int(extractor.fft_window_size)
    return Spectrogram(
        longest,
        longest // extractor.hop_length + 1,
        int(extractor.feature_size),
        frame_samples=frame,
        hop_samples=int(extractor.hop_length),
        fft_samples=frame,
        taper=_bytes(window_function(frame, "hann")),
        mel=_bytes(extractor.mel_filters if fused else extractor.mel_filters_slaney),
        centred=True,
        preemphasis=0.0,
        level=False,
        floor=CLAP_FLOOR,
        decibels=True,
        short=extractor.padding,
    )


def _waveform_prepared(config: Any, extractor: Any, n_samples: int) -> Waveform:
    _require(extractor.feature_size == 1, f"makes {extractor.feature_size} numbers of a sample")
    _require(extractor.padding_value == 0, f"pads with {extractor.padding_value}")
    return Waveform(n_samples, bool(extractor.do_normalize))


def _bytes(array: Any) -> bytes:
    return np.ascontiguousarray(array, dtype=np.float64).tobytes()


def _pooled(model: Any, spectrogram: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model(spectrogram).pooler_output
    return features


def _clap(model: Any, spectrogram: torch.Tensor) -> torch.Tensor:
    """A window is never longer than the model's own length, so a fused model gets it four times, as the extractor has it.

    The extractor calls one of such a batch longer, by chance; of a batch of one it is that one.
    """
    import torch

    fused = model.config.enable_fusion
    mel = spectrogram[:, None].expand(-1, 4 if fused else 1, -1, -1)
    longer = torch.ones(len(mel), 1, dtype=torch.bool, device=mel.device) if fused else None
    features: torch.Tensor = model(mel, is_longer=longer).audio_embeds
    return features


def _clap_faster(module: torch.nn.Module) -> torch.nn.Module:
    """Fusion of every window of a batch, without looking up which: neither a graph nor a converter can follow a look-up."""
    import torch

    encoder = module.model.audio_model.audio_encoder  # type: ignore[union-attr]

    def all_of(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0], torch.arange(len(given[0]), device=given[0].device))

    if encoder.enable_fusion:  # type: ignore[union-attr]
        encoder.enable_fusion = False  # type: ignore[union-attr]
        encoder.patch_embed.register_forward_pre_hook(all_of)  # type: ignore[union-attr]
    return module


def _mean_state(model: Any, samples: torch.Tensor) -> torch.Tensor:
    states: torch.Tensor = model(samples).last_hidden_state
    return states.mean(1)


_OF_WAVEFORM: dict[str, Any] = {
    "processor": "Wav2Vec2FeatureExtractor",
    "take": _mean_state,
    "feature": "mean over the window's hidden states",
    "prepared": _waveform_prepared,
    "longest_seconds": lambda extractor: LONGEST_WAVEFORM_SECONDS,
    "constants": ("sampling_rate", "do_normalize"),
    "window_seconds": WAVEFORM_SECONDS,
    "unused": ("masked_spec_embed",),  # in training only
}
SOUND_FAMILIES: Mapping[str, SoundFamily] = {
    # pooled as ASTForAudioClassification pools it: mean of the class token and the distillation token
    "audio-spectrogram-transformer": SoundFamily(
        "ASTModel",
        "ASTFeatureExtractor",
        _pooled,
        "mean of class and distillation token, as its classifier",
        _ast_prepared,
        lambda extractor: extractor.max_length * AST_HOP / AST_HZ,
        ("sampling_rate", "num_mel_bins", "max_length", "do_normalize", "mean", "std"),
    ),
    # what ClapModel compares with texts, before it is scaled to length 1
    "clap": SoundFamily(
        "ClapAudioModelWithProjection",
        "ClapFeatureExtractor",
        _clap,
        "audio_embeds",
        _clap_prepared,
        lambda extractor: float(extractor.max_length_s),
        (
            *("sampling_rate", "feature_size", "hop_length", "fft_window_size", "max_length_s"),
            *("frequency_min", "frequency_max", "truncation", "padding"),
        ),
        faster=_clap_faster,
        part="audio_config",
        defaults=(("truncation", "rand_trunc"),),  # of the default description, which does not fuse
    ),
    "wav2vec2": SoundFamily("Wav2Vec2Model", **_OF_WAVEFORM),
    "hubert": SoundFamily("HubertModel", **_OF_WAVEFORM),
}
