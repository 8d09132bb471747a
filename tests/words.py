"""Words for tests: videos with subtitle tracks, files of subtitles, and small encoders of text with tokenizers of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 10
ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
Cues = Sequence[tuple[float, float, str]]
VOCABULARY = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
)


def write_with_words(
    path: Path,
    tracks: Sequence[Cues],
    *,
    codec: str,
    seconds: float = 3.0,
    start_seconds: float = 0.0,
    video_codec: str = "libx264",
) -> Path:
    """Grey pictures and a subtitle track for each of `tracks`, whose times are those of the pictures' clock.

    start_seconds: of everything on the container's clock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream(video_codec, rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        subtitles = [out.add_stream(codec) for _ in tracks]
        for stream in subtitles:
            stream.codec_context.subtitle_header = ASS_HEADER
        packets = []
        for n in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round((start_seconds + n / FPS) * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        for stream, cues in zip(subtitles, tracks, strict=True):
            for start, end, text in cues:
                packet = av.Packet(_payload(codec, text))
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = round((start_seconds + start) * 1000)
                packet.duration = round((end - start) * 1000)
                packets.append(packet)
        packets = [packet for packet in packets if packet.size]
        for packet in sorted(packets, key=lambda p: float((p.dts if p.dts is not None else 0) * p.time_base)):
            out.mux(packet)
    return path


def _payload(codec: str, text: str) -> bytes:
    raw = text.encode()
    if codec == "mov_text":
        return len(raw).to_bytes(2, "big") + raw
    return b"0,0,Default,,0,0,0,," + raw.replace(b"\n", b"\\N") if codec == "ass" else raw


def clock(seconds: float, comma: str = ",") -> str:
    """00:00:01,250"""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{comma}{milliseconds:03d}"


def srt(cues: Cues) -> str:
    """The text of a .srt file."""
    return "\n".join(f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, 1))


def vtt(cues: Cues) -> str:
    """The text of a .vtt file."""
    return "WEBVTT\n\n" + "\n".join(f"{clock(a, '.')} --> {clock(b, '.')}\n{text}\n" for a, b, text in cues)


def recognised(cues: Cues) -> str:
    """The text of a .json file as speech recognisers write it."""
    return json.dumps(
        {"segments": [{"start": a, "end": b, "text": text} for a, b, text in cues]}, ensure_ascii=False
    )


def write_encoder(
    folder: Path, model_type: str = "bert", *, seed: int = 0, longest: int = 24, as_kobert: bool = False
) -> Path:
    """A tiny encoder of text with random weights in a folder as transformers writes it; its tokens are single letters.

    as_kobert: with a tokenizer of XLNet's class, which puts [CLS] last.
    """
    import torch
    import transformers

    tokenizer = transformers.BertTokenizer(vocab={token: n for n, token in enumerate(VOCABULARY)})
    if as_kobert:
        letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
        names_of = {
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        specials = [(token, 0.0) for token in VOCABULARY[:5]]
        tokenizer = transformers.XLNetTokenizer(vocab=[*specials, *letters], unk_id=1, **names_of)
    tokenizer.model_max_length = longest
    common: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": longest + 2,
        "pad_token_id": 0,
    }
    names = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    if model_type == "distilbert":
        names = {"n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 24}
    if model_type == "electra":
        names["embedding_size"] = 8
    config = transformers.AutoConfig.for_model(model_type, **common, **names)
    from pipeline.backbones.text_models import TEXT_FAMILIES

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TEXT_FAMILIES[model_type].build(config)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


KOREAN = (
    "한국어 모델을 공유합니다.",
    "그만해 때리지 마.",
    "두 사람이 길에서 싸우고 있다.",
    "오늘 날씨가 참 좋네요.",
    "2019년 3월 1,234명이 모였다.",
    "경찰을 불러 주세요, 사람이 다쳤어요.",
    "Hello this is an English line.",
)


def write_kobert(folder: Path, tokenizer_class: str = "XLNetTokenizer") -> Path:
    """A tiny BERT with random weights and a sentencepiece model trained on KOREAN, in files named as those of KoBERT."""
    import sentencepiece
    import torch
    import transformers

    folder.mkdir(parents=True)
    with (folder / "spiece.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(KOREAN * 20),
            model_writer=model,
            vocab_size=120,
            hard_vocab_limit=False,
            character_coverage=1.0,
            control_symbols=["[MASK]"],
            minloglevel=2,
            unk_id=0,
            pad_id=1,
            bos_id=2,
            eos_id=3,
            unk_piece="[UNK]",
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
        )
    n_pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
    names = {"bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]"}
    tokens: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    tokens["mask_token"] = {"content": "[MASK]", "single_word": False, "lstrip": True, "rstrip": False}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    tokens["mask_token"] |= {"__type": "AddedToken", "normalized": True}
    said = {"do_lower_case": False, "remove_space": True, "keep_accents": False, "sp_model_kwargs": {}}
    said |= {"tokenizer_class": tokenizer_class, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=n_pieces, pad_token_id=1, max_position_embeddings=64, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder
