"""Folders of tiny sound models of transformers' real classes, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline.backbones.kinds import transformers as kind

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
WAVE = SMALL | {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
HTSAT = {
    "num_mel_bins": 16,
    "spec_size": 64,
    "patch_embeds_hidden_size": 16,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "window_size": 4,
    "hidden_size": 32,
}
WORDS = SMALL | {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50}
BANDS = {
    "feature_size": 16,
    "max_length_s": 2,
    "sampling_rate": 16_000,
    "hop_length": 500,
    "frequency_max": 8000,
}
FUSED = HTSAT | {"enable_fusion": True, "enable_patch_fusion": True}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ast": (
        "audio-spectrogram-transformer",
        SMALL | {"max_length": 128, "num_mel_bins": 32},
        {"max_length": 128, "num_mel_bins": 32},
    ),
    "clap": (
        "clap",
        {"audio_config": HTSAT, "text_config": WORDS, "projection_dim": 16},
        BANDS | {"truncation": "rand_trunc"},
    ),
    "clap-fused": (
        "clap",
        {"audio_config": FUSED, "text_config": WORDS, "projection_dim": 16},
        BANDS | {"truncation": "fusion", "padding": "repeat"},
    ),
    "wav2vec2": ("wav2vec2", WAVE, {}),
    "wav2vec2-large": (
        "wav2vec2",
        WAVE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        {"return_attention_mask": True},
    ),
    "hubert": ("hubert", WAVE, {"do_normalize": False}),
}
"""Model type, values of its config, values of its feature extractor. CLAP's are whole models, as published."""


def save(folder: Path, name: str, **said: Any) -> Path:
    """A folder as the hub has it. said: other values of the feature extractor."""
    model_type, config, extractor = MODELS[name]
    with kind._quietly(), torch.random.fork_rng():
        torch.manual_seed(0)
        described = transformers.AutoConfig.for_model(model_type, **config)
        model = transformers.AutoModel.from_config(described)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
        model.save_pretrained(folder)
        kind.TYPES[model_type].processor_class()(**extractor | said).save_pretrained(folder)
    return folder
