"""What words and sound add to the extraction of pictures: processor time with and without these streams, on the same videos.

    python benchmarks/words.py --src FOLDER [--videos 4] [--rounds 3] [--weights random]

Takes the first videos of a folder, lays a made-up .srt beside a link to each (a line of speech every 3 s), and takes turns: clip
and slowfast, the same with text (all-MiniLM-L6-v2), and with text and audio (log-mel). Models are loaded before. Processor
seconds are those of this process and of its decode workers; what is shown is the median of the turns, and their ratios.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cache.labels.media import VIDEO_SUFFIXES
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.config import ExtractConfig
from pipeline.decoding.pool import PoolSettings
from pipeline.run import extract

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.spoken import SMALL_TALK, THREATS
from tests.words import srt

EVERY_SECONDS, LINES = 3.0, (*THREATS, *SMALL_TALK)


def processor_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="random", help="of clip and slowfast")
    asked = parser.parse_args()
    found = sorted(path for path in asked.src.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)[
        : asked.videos
    ]
    streams = ("clip", "slowfast", "audio", "text,weights=all-minilm-l6-v2")
    whole = BackboneConfig.of(streams, weights=asked.weights, device="cpu")
    backbones = load_backbones(whole)
    with tempfile.TemporaryDirectory() as folder:
        for path in found:
            link = Path(folder) / "src" / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.absolute())
            cues = [(EVERY_SECONDS * n, EVERY_SECONDS * n + 2, LINES[n % len(LINES)]) for n in range(200)]
            link.with_suffix(".srt").write_text(srt(cues), encoding="utf-8")
        names_of = ("clip,slowfast", "clip,slowfast,text", "clip,slowfast,audio,text")
        taken: dict[str, list[float]] = {names: [] for names in names_of}
        told = ""
        for turn in range(asked.rounds):
            for names, seconds in taken.items():
                mine = {name: backbones[name] for name in names.split(",")}
                config = ExtractConfig(
                    Path(folder) / "src",
                    Path(folder) / f"{turn}-{len(mine)}.zarr",
                    replace(whole, streams=tuple(c for c in whole.streams if c.name in mine)),
                    allow_unmatched=True,
                    pool=PoolSettings(workers=1),
                )
                began = processor_seconds()
                report = extract(config, console=Console(file=io.StringIO()), backbones=mine)
                seconds.append(processor_seconds() - began)
                told = f"{report.stored} videos, {report.video_seconds:.0f} s, tokens {report.tokens}"
    medians = {names: statistics.median(seconds) for names, seconds in taken.items()}
    print(told)
    for names, seconds in taken.items():
        every = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"{names:<25} {medians[names]:7.1f} processor seconds (of {every})")
    without, with_words, with_both = medians.values()
    print(f"words add {with_words / without - 1:+.1%}, words and sound {with_both / without - 1:+.1%}")


if __name__ == "__main__":
    main()
