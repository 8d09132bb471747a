"""Breaks real videos in every way we know and extracts them all: nothing may hang, vanish, or be stored wrongly.

    python benchmarks/break_files.py --src DIR [--out DIR] [--count 60] [--decoder pyav] [--streams clip,slowfast]

Makes at least `--count` broken files from clips in DIR (chosen and broken by `--seed`), adds the broken files of tests/videos.py,
extracts everything with random weights in one run, and checks that

    every file is stored or rejected with a listed reason, and the counts add up
    no worker outlives the run, and no video takes longer than the deadline lets it
    every stored token is finite, not constant, and inside the spans of its video

Prints a markdown table of kind against outcome and exits with 1 if a check fails. `--out` keeps the broken files and the cache.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.videos, which is not installed

from cache.schema import REJECT_REASONS  # noqa: E402
from pipeline.reporting.report import ExtractReport  # noqa: E402
from tests.videos import BROKEN_FILES, damage_header, over_report, write_image  # noqa: E402

Rng = np.random.Generator
Breaker = Callable[[Path, Path, Rng], None]
"""Writes a broken version of the first path to the second."""
DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1)


def remuxed(source: Path, target: Path, **options: str) -> Path:
    """The same packets in the container of the target's suffix."""
    with av.open(str(source)) as inside, av.open(str(target), "w", options=options) as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for packet in inside.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                outside.mux(packet)
    return target


def cut(target: Path, fraction: float) -> None:
    """Keep the first part of a file."""
    data = target.read_bytes()
    target.write_bytes(data[: int(len(data) * fraction)])


def truncated(source: Path, target: Path, rng: Rng) -> None:
    """The index of a plain mp4 may stand at either end; what is left of it decides."""
    target.write_bytes(source.read_bytes())
    cut(target, float(rng.uniform(0.01, 0.99)))


def truncated_index_last(source: Path, target: Path, rng: Rng) -> None:
    remuxed(source, target)
    cut(target, float(rng.choice([0.1, 0.5, 0.9, 0.99, 0.999])))


def truncated_index_first(source: Path, target: Path, rng: Rng) -> None:
    remuxed(source, target, movflags="+faststart")
    cut(target, float(rng.uniform(0.02, 0.98)))


def truncated_mkv(source: Path, target: Path, rng: Rng) -> None:
    cut(remuxed(source, target), float(rng.uniform(0.02, 0.98)))


def flipped(source: Path, target: Path, rng: Rng) -> None:
    """Random bytes all over the file, from a handful to one in ten."""
    data = np.frombuffer(source.read_bytes(), np.uint8).copy()
    places = rng.choice(len(data), max(1, int(len(data) * rng.choice(DENSITIES))), replace=False)
    data[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    target.write_bytes(data.tobytes())


def flipped_ts(source: Path, target: Path, rng: Rng) -> None:
    flipped(remuxed(source, target), target, rng)


def flipped_index(source: Path, target: Path, rng: Rng) -> None:
    """Only the index of an mp4 (its moov box)."""
    data = bytearray(remuxed(source, target, movflags="+faststart").read_bytes())
    start = data.find(b"moov") - 4
    size = struct.unpack_from(">I", data, start)[0]
    for at in rng.integers(start + 8, start + size, max(1, int(size * rng.choice(DENSITIES)))):
        data[at] ^= int(rng.integers(1, 256))
    target.write_bytes(data)


def damaged_header(source: Path, target: Path, rng: Rng) -> None:
    target.write_bytes(source.read_bytes())
    damage_header(target, n_bytes=int(rng.choice([4, 16, 64, 1024, 16384])))


def zeroed_hole(source: Path, target: Path, rng: Rng) -> None:
    """A stretch of zeros, as a bad sector or a torn download leaves it."""
    data = bytearray(source.read_bytes())
    length = int(len(data) * rng.choice([0.001, 0.02, 0.2, 0.6]))
    start = int(rng.integers(0, len(data) - length))
    data[start : start + length] = bytes(length)
    target.write_bytes(data)


def missing_piece(source: Path, target: Path, rng: Rng) -> None:
    """A stretch is gone and everything after it has moved."""
    data = source.read_bytes()
    start = int(rng.integers(0, len(data) - 1))
    target.write_bytes(data[:start] + data[start + int(rng.integers(1, 5000)) :])


def shuffled_blocks(source: Path, target: Path, rng: Rng) -> None:
    data = source.read_bytes()
    blocks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    one, other = rng.integers(0, len(blocks), 2)
    blocks[one], blocks[other] = blocks[other], blocks[one]
    target.write_bytes(b"".join(blocks))


def over_reporting(source: Path, target: Path, rng: Rng) -> None:
    """A header that declares many times the frames and the duration."""
    over_report(remuxed(source, target), factor=int(rng.choice([2, 10, 100, 100_000])))


def wild_times(source: Path, target: Path, rng: Rng) -> None:
    """The time table (stts) of an mp4 holds random intervals."""
    data = bytearray(remuxed(source, target).read_bytes())
    table = data.find(b"stts")
    entries = struct.unpack_from(">I", data, table + 8)[0]
    for entry in range(entries):
        struct.pack_into(">I", data, table + 16 + 8 * entry, int(rng.integers(0, 2**32)))
    target.write_bytes(data)


def doubled(source: Path, target: Path, rng: Rng) -> None:
    """A whole file with something behind it: itself, or noise."""
    data = source.read_bytes()
    target.write_bytes(data + (data if rng.integers(2) else rng.bytes(50_000)))


def picture_named_mp4(source: Path, target: Path, rng: Rng) -> None:
    """One frame, and not even a video."""
    write_image(target.with_suffix(".jpg"), seed=int(rng.integers(1000))).replace(target)


def playlist(source: Path, target: Path, rng: Rng) -> None:
    """A text that names another file; following it would store that file's frames under this name."""
    head = ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:5.0,\n{}\n#EXT-X-ENDLIST\n"][
        int(rng.integers(2))
    ]
    target.write_text(head.format(source.resolve()), encoding="utf-8")


KINDS: dict[str, tuple[Breaker, str]] = {  # kind -> what breaks it, suffix
    "truncated anywhere": (truncated, ".mp4"),
    "truncated, index at the end": (truncated_index_last, ".mp4"),
    "truncated, index in front": (truncated_index_first, ".mp4"),
    "truncated mkv": (truncated_mkv, ".mkv"),
    "flipped bytes": (flipped, ".mp4"),
    "flipped bytes, ts": (flipped_ts, ".ts"),
    "flipped bytes in the index": (flipped_index, ".mp4"),
    "damaged header": (damaged_header, ".mp4"),
    "hole of zeros": (zeroed_hole, ".mp4"),
    "missing piece": (missing_piece, ".mp4"),
    "swapped blocks": (shuffled_blocks, ".mp4"),
    "over-reporting header": (over_reporting, ".mp4"),
    "wild time table": (wild_times, ".mp4"),
    "something appended": (doubled, ".mp4"),
    "picture named .mp4": (picture_named_mp4, ".mp4"),
    "playlist named .mp4": (playlist, ".mp4"),
}
FACTORY = "made by tests/videos.py"


def make_files(src: Path, folder: Path, *, count: int, seed: int) -> dict[str, str]:
    """At least `count` broken clips and the factory's list; returns id -> kind."""
    clips = sorted(path for path in src.rglob("*") if path.suffix.lower() == ".mp4")
    if not clips:
        sys.exit(f"{src}: holds no .mp4 to break")
    rng = np.random.default_rng(seed)
    kinds: dict[str, str] = {}
    for number in range(-(-count // len(KINDS)) * len(KINDS)):
        kind = list(KINDS)[number % len(KINDS)]
        breaker, suffix = KINDS[kind]
        target = folder / f"{number:03}-{kind.replace(' ', '-').replace(',', '')}{suffix}"
        breaker(clips[int(rng.integers(len(clips)))], target, rng)
        kinds[target.name] = kind
    for name, (write, _) in BROKEN_FILES.items():
        write(folder / f"factory-{name}")
        kinds[f"factory-{name}"] = FACTORY
    return kinds


def failures(
    report: ExtractReport, kinds: dict[str, str], cache_path: Path, *, wall_seconds: float, deadline: float
) -> Iterator[str]:
    """What went wrong, one line each."""
    from cache.check import check_cache
    from cache.reader import open_cache

    with open_cache(cache_path) as cache:
        stored = {str(video_id) for video_id in cache.videos.id}
        rejected = dict(zip(map(str, cache.rejects.id), map(str, cache.rejects.reason), strict=True))
        yield from map(str, check_cache(cache))
        for index in range(cache.n_videos):
            row = cache.videos.row(index)
            for name in cache.streams:
                tokens = cache.tokens(name, index)
                if tokens.spans[-1, 1] > row.duration_seconds + 1e-3:
                    yield f"{row.id}: {name} tokens reach beyond the video"
    if not report.adds_up:
        yield f"{report.stored} stored + {report.rejected} rejected is not {report.found} found"
    if report.found != len(kinds):
        yield f"{len(kinds)} files were made, {report.found} were found"
    lost = kinds.keys() - stored - rejected.keys()
    yield from (f"{name}: neither stored nor rejected" for name in sorted(lost))
    yield from (f"{name}: both stored and rejected" for name in sorted(stored & rejected.keys()))
    yield from (f"{n}: {r} is no listed reason" for n, r in rejected.items() if r not in REJECT_REASONS)
    if alive := multiprocessing.active_children():
        yield f"workers are left: {', '.join(process.name for process in alive)}"
    if wall_seconds > (report.worker_restarts + 1) * (deadline + 60) + 30 * len(kinds):
        yield f"{wall_seconds:.0f} s for {len(kinds)} files: something hung"


def table(report: ExtractReport, kinds: dict[str, str]) -> str:
    """Markdown: kind against how its files ended."""
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in [*KINDS, FACTORY]}
    for name, kind in kinds.items():
        if name in report.rejects:
            outcome = report.rejects[name][0]
        elif name in report.damaged or name in report.shortened:
            outcome = "stored with a note"
        else:
            outcome = "stored"
        outcomes[kind][outcome] += 1
    total: Counter[str] = sum(outcomes.values(), Counter())
    columns = ["stored", "stored with a note", *(reason for reason in REJECT_REASONS if total[reason])]
    lines = [f"| kind | files | {' | '.join(columns)} |", f"|---|---{'|---' * len(columns)}|"]
    for kind, counts in [*outcomes.items(), ("**all**", total)]:
        cells = [str(counts[column] or "") for column in columns]
        lines.append(f"| {kind} | {counts.total()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--decoder", choices=("decord", "pyav", "opencv"), default="pyav")
    parser.add_argument("--streams", default="clip,slowfast")
    parser.add_argument("--clip-model", default="ViT-B-32")
    parser.add_argument("--deadline", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # not at the top: decode workers import this file again, and must stay small
    from pipeline.backbones.load import BackboneConfig
    from pipeline.config import ExtractConfig
    from pipeline.decoding.pool import PoolSettings, default_workers
    from pipeline.run import extract

    with tempfile.TemporaryDirectory(prefix="onepass-broken-") as scratch:
        out = options.out or Path(scratch)
        folder = out / "files"
        folder.mkdir(parents=True)
        kinds = make_files(options.src, folder, count=options.count, seed=options.seed)
        config = ExtractConfig(
            src=folder,
            out=out / "cache.zarr",
            backbones=BackboneConfig.of(
                streams=tuple(options.streams.split(",")),
                clip_model=options.clip_model,
                clip_weights="random",
                slowfast_weights="random",
            ),
            decoder=options.decoder,
            pool=PoolSettings(workers=default_workers(), deadline_seconds=options.deadline),
            max_rejects=1.0,
        )
        began = time.monotonic()
        report = extract(config, console=Console(file=io.StringIO()))
        wall_seconds = time.monotonic() - began
        wrong = list(
            failures(report, kinds, config.out, wall_seconds=wall_seconds, deadline=options.deadline)
        )
        report.write(out / "report.json")
    print(table(report, kinds))
    print(
        f"\n{len(kinds)} files in {wall_seconds:.0f} s with {options.decoder}: {report.stored} stored "
        f"({len(report.damaged)} with damaged frames, {len(report.shortened)} shorter than declared), "
        f"{report.rejected} rejected; {len(report.fallbacks)} were given to PyAV, {report.worker_restarts} workers had "
        f"to be replaced; tokens: {', '.join(f'{count} {name}' for name, count in report.tokens.items())}"
    )
    for line in wrong:
        print(f"FAILED: {line}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
