"""Which picture stands at which time: numbered pictures through codec x container x group of pictures x B-frames x rate x length.

Every file goes through real decode workers with each decoder and each set of streams. It must end right (every sample of every
window is the picture that the file's own times put there), or noted or rejected for a reason that is listed here. None may be
silently wrong. `python -m tests.pipeline.test_numbered` prints the table of docs/sampling.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import DecoderName
from pipeline.decoding.frames import FIXED_POINT_SCALE, FramePlan
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.worker import Finished
from pipeline.verify import plain_frame_indices, plain_token_count
from tests.pipeline.numbered import SIDE, read_number, write_numbered
from tests.pipeline.pools import Outcome, run_pool, settings_for

pytestmark = pytest.mark.usefixtures("forked_workers")

DECODERS: tuple[DecoderName, ...] = ("pyav", "decord", "opencv")
CLIP = StreamPlan("clip", Sampling(fps=2.0), FramePlan("pil-bicubic", SIDE))
SLOWFAST = StreamPlan("slowfast", Sampling(fps=15.0, window=32, stride=32), FramePlan("linear-fixed", SIDE))
STREAMS: Mapping[str, tuple[StreamPlan, ...]] = {"clip": (CLIP,), "both": (CLIP, SLOWFAST)}


@dataclass(frozen=True)
class Case:
    """One file: its name, how `write_numbered` makes it, pictures that an edit list cuts off, and times where they are uneven."""

    name: str
    make: Mapping[str, Any] = field(default_factory=dict)
    cut: int = 0

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds of every picture that is shown, from the first one that is."""
        given = self.make.get("times_seconds")
        rate = float(Fraction(self.make.get("rate", 25)).limit_denominator(1001))
        times = np.asarray(given if given is not None else np.arange(self.make.get("n_frames", 100)) / rate)
        shown: NDArray[np.float64] = times[self.cut :] - times[self.cut]
        return shown


def uneven(n_frames: int = 60) -> list[float]:
    """Gaps of 10 to 240 ms, the last as long as the longest: how long the last picture is shown must not matter here."""
    gaps = [*(np.random.default_rng(0).integers(10, 240, n_frames - 2) / 1000), 0.24]
    return [round(float(t), 3) for t in itertools.accumulate(gaps, initial=0.0)]


REALTIME = {"deadline": "realtime", "cpu-used": "8"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
AV1 = {"preset": "9", "crf": "10", "svtav1-params": "enable-tf=0"}
INTERLACED = {"flags": "+ildct+ilme"}
RAW = {"container": "h264", "rate": 30}


def _cases() -> Iterator[Case]:
    for b in (0, 2):
        tag = f"_b{b}" if b else ""

        def h264(name: str, *, tag: str = tag, b: int = b, cut: int = 0, **make: Any) -> Case:
            stem, dot, suffix = name.rpartition(".")
            return Case(f"{stem}{tag}{dot}{suffix}", {"b_frames": b, **make}, cut)

        for suffix in ("mp4", "mov", "mkv", "3gp", "avi", "flv", "ts", "mpg"):
            yield h264(f"h264.{suffix}")
        yield h264("h264.wmv", container="asf")
        yield h264("h264.vob", container="vob")
        yield h264("h264.h264", container="h264")
        yield h264("raw_named.mp4", **RAW)
        for gop in (1, 12, 250):
            yield h264(f"gop{gop}.mp4", gop=gop)
        for gop in (25, 250):
            yield h264(f"fragmented_gop{gop}.mp4", gop=gop, container_options=FRAGMENTED)
        yield h264(
            "dash.mp4", container_options={"movflags": "dash+frag_keyframe+empty_moov+default_base_moof"}
        )
        yield h264("gop250.flv", gop=250)
        yield h264("no_edit_list.mp4", container_options={"use_editlist": "0"})
        yield h264("negative_offsets.mp4", container_options={"movflags": "negative_cts_offsets"})
        for suffix in ("mp4", "mkv", "ts"):
            yield h264(
                f"open_gop.{suffix}", codec_options={"x264-params": "open-gop=1:keyint=25:min-keyint=25"}
            )
            yield h264(f"starts_late.{suffix}", start_seconds=5.0)
            yield h264(f"ten_seconds_a_frame.{suffix}", rate=Fraction(1, 10), n_frames=8)
        yield h264("intra_refresh.mp4", codec_options={"x264-params": "intra-refresh=1:keyint=25"})
        yield h264("clock_wraps.ts", container_options={"output_ts_offset": "95441.7"})
        yield h264("starts_at_-1.mp4", start_seconds=-1.0, cut=25)
        yield h264("240fps.mp4", rate=240, n_frames=250)
        yield h264("ntsc.mp4", rate=Fraction(30000, 1001))
        yield h264("ntsc.avi", rate=Fraction(30000, 1001))
        yield h264("short.mp4", n_frames=7)
        yield h264("one.mp4", n_frames=1)
        for suffix in ("mp4", "mkv", "ts", "flv"):
            yield h264(f"uneven.{suffix}", times_seconds=uneven(), time_base=Fraction(1, 1000))
        if not b:
            yield h264("uneven.avi", times_seconds=uneven(), time_base=Fraction(1, 1000))
        for suffix in ("mp4", "mkv", "ts"):
            yield Case(f"hevc{tag}.{suffix}", {"codec": "libx265", "b_frames": b})
        yield Case(f"hevc{tag}.hevc", {"codec": "libx265", "b_frames": b, "container": "hevc"})
        for suffix in ("mp4", "mov", "mkv", "avi", "ts"):
            yield Case(f"mpeg4{tag}.{suffix}", {"codec": "mpeg4", "b_frames": b})
        for codec, name in (("mpeg2video", "mpeg2"), ("mpeg1video", "mpeg1")):
            for suffix in ("mp4", "mkv", "avi", "ts", "mpg"):
                yield Case(f"{name}{tag}.{suffix}", {"codec": codec, "b_frames": b})
        for suffix in ("ts", "mp4"):
            make = {"codec": "mpeg2video", "b_frames": b, "codec_options": INTERLACED}
            yield Case(f"interlaced{tag}.{suffix}", make)
        yield Case(f"mpeg2{tag}.m2v", {"codec": "mpeg2video", "b_frames": b, "container": "mpeg2video"})
    for suffix in ("3gp", "avi", "mov"):
        yield Case(f"h263.{suffix}", {"codec": "h263", "width": 128})
    for codec in ("wmv2", "msmpeg4"):
        yield Case(f"{codec}.wmv", {"codec": codec, "container": "asf"})
        yield Case(f"{codec}.avi", {"codec": codec})
    yield Case("flv1.flv", {"codec": "flv"})
    yield Case("vp8.webm", {"codec": "libvpx", "codec_options": REALTIME})
    hidden = {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "16"}
    yield Case("vp8_hidden_frames.webm", {"codec": "libvpx", "codec_options": hidden})
    for suffix in ("webm", "mp4", "ivf"):
        yield Case(f"vp9.{suffix}", {"codec": "libvpx-vp9", "codec_options": REALTIME})
    for suffix in ("mp4", "mkv", "webm"):
        yield Case(f"av1.{suffix}", {"codec": "libsvtav1", "codec_options": AV1})
    for suffix in ("mp4", "mov", "mkv", "avi"):
        yield Case(f"mjpeg.{suffix}", {"codec": "mjpeg", "pix_fmt": "yuvj420p"})
    yield Case("raw.mjpeg", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "container": "mjpeg"})
    for suffix in ("mov", "mkv"):
        yield Case(f"prores.{suffix}", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"})
    for suffix in ("avi", "mkv"):
        yield Case(f"ffv1.{suffix}", {"codec": "ffv1"})
    yield Case("animated.gif", {"codec": "gif", "pix_fmt": "rgb8", "rate": 10, "n_frames": 40})


CASES = tuple(_cases())
NO_TIMES = "no frame has a time"
NOTED: Mapping[str, str] = {
    **dict.fromkeys(("raw_named.mp4", "raw_named_b2.mp4", "h264.h264", "h264_b2.h264"), NO_TIMES),
    **dict.fromkeys(("hevc.hevc", "hevc_b2.hevc", "raw.mjpeg", "mpeg2.m2v", "mpeg2_b2.m2v"), NO_TIMES),
}
"""Files that end right, and with a note that says how their times were found."""


def _numbers(outcome: Outcome, plans: Sequence[StreamPlan]) -> dict[str, list[list[int]]]:
    """By stream and token: the number in every sample's picture."""
    found = {}
    for index, plan in enumerate(plans):
        scale = FIXED_POINT_SCALE if plan.frames.dtype == np.int16 else 1
        windows = outcome.tokens.get(index, [])
        found[plan.name] = [[read_number(frame / np.float32(scale)) for frame in w] for w in windows]
    return found


def verdict(case: Case, outcome: Outcome, plans: Sequence[StreamPlan]) -> str:
    """`right`, `rejected: reason`, `noted: what`, or `SILENTLY WRONG: what`."""
    if not isinstance(outcome.end, Finished):
        return f"rejected: {outcome.reason}"
    video, times = outcome.end.video, case.times
    last = float(np.diff(times).max()) if len(times) > 1 else 1.0
    wrong = []
    numbers = _numbers(outcome, plans)
    if abs(video.duration_seconds - (times[-1] + last)) > last + 2e-3 and len(times) > 1:
        wrong.append(f"{video.duration_seconds:.3f} s long, not {times[-1] + last:.3f}")
    for plan in plans:
        got = numbers[plan.name]
        n_tokens = plain_token_count(video.duration_seconds, plan.sampling)
        due = [
            [
                (n + case.cut) % 256
                for n in plain_frame_indices(times, video.duration_seconds, t, plan.sampling)
            ]
            for t in range(n_tokens)
        ]
        off = sum(a != b for a, b in zip(itertools.chain(*got), itertools.chain(*due), strict=False))
        if off or len(got) != len(due):
            wrong.append(f"{off} of {sum(map(len, due))} {plan.name} samples")
    told = "; ".join(video.notes) or (f"{video.n_errors} errors" if video.n_errors else "")
    if wrong:
        return f"noted: {told} ({', '.join(wrong)})" if told else f"SILENTLY WRONG: {', '.join(wrong)}"
    return f"right, noted: {told}" if told else "right"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("numbered")
    for case in CASES:
        write_numbered(made / case.name, **case.make)
    return made


def verdicts(folder: Path, decoder: DecoderName, streams: str) -> dict[str, tuple[str, str]]:
    """By file: the verdict and the decoder that had the last word."""
    plans = STREAMS[streams]
    trial = run_pool([folder / case.name for case in CASES], decoder, worker=settings_for(plans))
    assert trial.worker_restarts == 0
    found = {}
    for case, outcome in zip(CASES, trial.outcomes, strict=True):
        by = outcome.end.decoder if isinstance(outcome.end, Finished) else ""
        found[case.name] = (verdict(case, outcome, plans), by)
    return found


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(
    "decoder", [DECODERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in DECODERS[1:])]
)
def test_every_picture_stands_at_its_own_time(decoder: DecoderName, streams: str, folder: Path) -> None:
    found = verdicts(folder, decoder, streams)
    wrong = {}
    for name, (said, by) in found.items():
        right = said == "right" or (said.startswith("right, noted: ") and NOTED.get(name, "-") in said)
        if not right or (name in NOTED and said == "right"):
            wrong[name] = f"{said} (by {by})"
    assert not wrong
    assert sum(by == decoder for _, by in found.values()) > len(CASES) / 4, "the decoder was hardly used"


def main() -> None:
    """Print the table."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        for case in CASES:
            write_numbered(made / case.name, **case.make)
        columns = {decoder: verdicts(made, decoder, "both") for decoder in DECODERS}
    rows: dict[tuple[str, ...], list[str]] = {}
    for case in CASES:
        ends = tuple(columns[decoder][case.name] for decoder in DECODERS)
        words = [
            f"{said}{'' if by == d else f', by {by}'}" for d, (said, by) in zip(DECODERS, ends, strict=True)
        ]
        rows.setdefault(tuple(words), []).append(case.name)
    print("| " + " | ".join(f"`--decoder {decoder}`" for decoder in DECODERS) + " | files |")
    print("|---" * (len(DECODERS) + 1) + "|")
    for cells, names in rows.items():
        print("| " + " | ".join(cells) + f" | {len(names)}: {', '.join(names)} |")


if __name__ == "__main__":
    main()
