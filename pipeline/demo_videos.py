"""Makes a small data set in the RWF-2000 layout that needs no download: two classes a head can learn, and
three broken files.

`NonFight` clips show shapes that drift slowly; `Fight` clips show shapes that jump to a new place several
times a second, a shaking background and flashes. Clips differ in size, frame rate and length, in the same way
in both classes, so that the metadata alone tell nothing. Everything is drawn from a seed: two calls write the
same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.process.outputs import require_output_folder

Motion = Literal["calm", "violent"]
CLASSES: dict[str, Motion] = {"NonFight": "calm", "Fight": "violent"}

_SIZES = ((160, 120), (176, 144), (240, 136), (128, 128), (144, 176))
_FPS = (Fraction(10), Fraction(15), Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001))
_CLIPS_PER_SOURCE = 2
_BROKEN = (
    ("train", "Fight", "empty.mp4"),
    ("train", "NonFight", "truncated.mp4"),
    ("val", "Fight", "text.mp4"),
)


def make_demo_folder(out: Path) -> None:
    """A folder for the demo, or one that is there. Raises InputError for somebody else's videos, and for what is no folder."""
    require_output_folder("--out", out)
    if (out / "videos").exists() and not (out / "demo").exists():
        raise InputError(f"{out} exists and is no demo folder: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo").touch()


def make_demo_tree(
    root: Path, *, videos_per_class_train: int = 8, videos_per_class_val: int = 4, seed: int = 0
) -> Path:
    """Write `train|val/Fight|NonFight/*.mp4`, three broken files and `sources.csv` below `root`; returns
    `root`.

    Clips last 2 to 5 s at 10 to 29.97 frames/s, 128 to 240 pixels wide, h264. Two neighbouring clips of a
    class are "cut from one recording": they share a source group (`sources.csv`), background, size and frame
    rate. The broken files are an empty one, one cut off in the middle and a text file named `.mp4`.
    """
    for name, count in (("train", videos_per_class_train), ("val", videos_per_class_val)):
        if count < 1:
            raise ValueError(f"videos_per_class_{name} must be at least 1, not {count}")
    rows: list[tuple[str, str, str, str]] = []
    for split, count in (("train", videos_per_class_train), ("val", videos_per_class_val)):
        for class_name, motion in CLASSES.items():
            folder = root / split / class_name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                source = f"{split}-{class_name.lower()}-{index // _CLIPS_PER_SOURCE:02d}"
                path = folder / f"{source}_{index % _CLIPS_PER_SOURCE}.mp4"
                _write_clip(path, motion=motion, source=source, index=index, seed=seed)
                rows.append((path.relative_to(root).as_posix(), class_name, split, source))
    for split, class_name, file_name in _BROKEN:
        path = root / split / class_name / file_name
        _write_broken(path, donor=root / rows[0][0])
        rows.append((path.relative_to(root).as_posix(), class_name, split, f"broken-{path.stem}"))
    with (root / "sources.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split", "source"))
        writer.writerows(sorted(rows))
    return root


def draw_frames(
    times_seconds: Iterable[float], *, motion: Motion, width: int, height: int, seed: int
) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3] (RGB) of one scene at the given times in seconds; the scene depends on `seed`
    alone.
    """
    rng = np.random.default_rng(seed)
    violent = motion == "violent"
    scene = _Scene.draw(rng, violent=violent)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows, columns = rows / height, columns / width
    frames = []
    for time in times_seconds:
        beat = np.random.default_rng((seed, int(time * scene.beats_per_second)))  # what changes at each beat
        shake = beat.uniform(-0.08, 0.08, 2) if violent else np.zeros(2)
        waves = np.sin(scene.frequency * (columns + shake[0])) * np.cos(scene.frequency * (rows + shake[1]))
        frame = scene.background + 24.0 * waves[..., None].astype(np.float32)
        centres = (
            beat.uniform(0.1, 0.9, scene.starts.shape) if violent else scene.starts + scene.speeds * time
        )
        for (x, y), radius, colour in zip(centres % 1.0, scene.radii, scene.colours, strict=True):
            frame[np.hypot(columns - x, rows - y) < radius] = colour
        if violent and beat.random() < 0.35:
            frame = frame + 90.0
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_h264(path: Path, frames: NDArray[np.uint8], *, fps: Fraction) -> Path:
    """Encode uint8 [T, H, W, 3] RGB frames (even height and width) as an h264 mp4 at a constant rate; returns
    `path`.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "26"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


@dataclass(frozen=True, slots=True)
class _Scene:
    """What stays the same through a clip. Positions, radii and speeds are shares of the frame."""

    background: NDArray[np.float32]  # [3]
    frequency: float
    starts: NDArray[np.float64]  # [shapes, 2]
    speeds: NDArray[np.float64]  # [shapes, 2], per second
    radii: NDArray[np.float64]  # [shapes]
    colours: NDArray[np.float64]  # [shapes, 3]
    beats_per_second: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, violent: bool) -> _Scene:
        shapes = int(rng.integers(3, 6))
        return cls(
            background=rng.uniform(40, 150, 3).astype(np.float32),
            frequency=float(rng.uniform(8, 20)),
            starts=rng.uniform(0.1, 0.9, (shapes, 2)),
            speeds=rng.uniform(-0.12, 0.12, (shapes, 2)),
            radii=rng.uniform(0.06, 0.14, shapes),
            colours=rng.uniform(0, 255, (shapes, 3)),
            beats_per_second=float(rng.uniform(6, 9)),
        )


def _write_clip(path: Path, *, motion: Motion, source: str, index: int, seed: int) -> None:
    group, part = divmod(index, _CLIPS_PER_SOURCE)
    width, height = _SIZES[group % len(_SIZES)]  # by position, not by class: metadata must not tell the label
    fps = _FPS[(group + seed) % len(_FPS)]
    n_frames = round(float(fps) * (2.0 + 3.0 * ((7 * index) % 10) / 9))
    times = [10.0 * part + float(n / fps) for n in range(n_frames)]  # a later part of the same recording
    scene_seed = int(np.random.default_rng((seed, *source.encode())).integers(2**31))
    frames = draw_frames(times, motion=motion, width=width, height=height, seed=scene_seed)
    write_h264(path, frames, fps=fps)


def _write_broken(path: Path, *, donor: Path) -> None:
    if path.stem == "empty":
        path.write_bytes(b"")
    elif path.stem == "truncated":
        whole = donor.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])  # the index stands at the end of an mp4: it is gone
    else:
        path.write_text("This is not a video.\n" * 50, encoding="utf-8")
