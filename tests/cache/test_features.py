"""Features made elsewhere as a cache: what is stored, what is said of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import write_features
from cache.check import check_cache, values_digest
from cache.convert import convert
from cache.errors import CacheError, FingerprintMismatch, InputError
from cache.features import attach_features, imported_video, plan_of
from cache.fingerprint import is_imported, weights_name
from cache.labels import label_videos
from cache.merge import merge
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoLabel
from cache.token_arrays import Timing, timing, token_values
from cache.writer import CacheWriter
from tests.cache.builders import make_video, open_writer, read_contents

RNG = np.random.default_rng(0)
IDS = ("Fight/a.mp4", "Fight/b.mp4", "NonFight/c.mp4", "NonFight/d.mp4")
LABELS = {video_id: video_id.split("/")[0] for video_id in IDS}


def arrays(ids: tuple[str, ...] = IDS, *, dim: int = 5, dtype: Any = np.float32, **streams: int) -> Any:
    made = streams or {"image": 3}
    return {i: {s: RNG.normal(size=(n, dim)).astype(dtype) for s, n in made.items()} for i in ids}


def test_what_is_given_is_stored_and_what_is_unknown_stays_so(tmp_path: Path) -> None:
    features = arrays(image=3, sound=2)
    path = write_features(tmp_path / "a.zarr", features, fps=2, labels=LABELS, splits={IDS[0]: "train"})
    with open_cache(path) as cache:
        assert not check_cache(cache)
        assert cache.videos.id.tolist() == list(IDS) and cache.videos.label.tolist() == [1, 1, 0, 0]
        assert cache.label_names == ("NonFight", "Fight") and cache.videos.split.tolist()[0] == "train"
        for index, video_id in enumerate(IDS):
            for stream in ("image", "sound"):
                tokens = cache.tokens(stream, index)
                assert tokens.values.dtype == np.float32
                np.testing.assert_array_equal(tokens.values, features[video_id][stream])
                assert tokens.spans.tolist() == [[n / 2, (n + 1) / 2] for n in range(len(tokens.values))]
        row = cache.videos.row(0)
        assert (row.digest, row.fps, row.width, row.height, row.n_frames) == ("", 0, 0, 0, 0)
        assert row.duration_seconds == 1.5 and row.decoder == "imported"
        fields = cache.streams["image"].fingerprint
        assert fields["weights"] == {"tag": "imported", "digest": values_digest(cache, "image")}
        assert fields["model"] == "unknown" and fields["sampling"] == {
            "stride_seconds": 0.5,
            "window_seconds": 0.5,
        }
        assert is_imported(fields) and not cache.random_weights
        assert (
            weights_name(fields) == f"imported ({fields['weights']['digest'].removeprefix('blake2b:')[:12]})"
        )


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_lists_single_vectors_and_halves_are_taken_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = write_features(tmp_path / f"a{suffix}", {"a": {"x": [1.0, 2.0]}, "b": {"x": [[3, 4]]}})
    with open_cache(path) as cache:
        assert cache.load("x").values.tolist() == [[1, 2], [3, 4]]
        assert cache.load("x").spans.tolist() == [[0, 0], [0, 0]]
        assert cache.videos.duration_seconds.tolist() == [0, 0] and cache.videos.label.tolist() == [-1, -1]
        assert cache.label_names is None and not check_cache(cache)
    half = write_features(
        tmp_path / f"h{suffix}", arrays(dtype=np.float16), stride_seconds=1, window_seconds=2
    )
    with open_cache(half) as cache:
        assert cache.streams["image"].dtype == "float16" and cache.load("image").spans[2].tolist() == [2, 4]


def test_spans_by_id_or_by_stream(tmp_path: Path) -> None:
    spans: Any = {video_id: [[0, 1], [1, 2], [1, 4]] for video_id in IDS}
    spans[IDS[0]] = {"image": [[0, 1], [2, 3], [5, 6]]}
    with open_cache(write_features(tmp_path / "a.zarr", arrays(), spans=spans)) as cache:
        assert cache.tokens("image", 0).spans.tolist() == [[0, 1], [2, 3], [5, 6]]
        assert cache.videos.duration_seconds.tolist() == [6, 4, 4, 4] and not check_cache(cache)
        assert cache.streams["image"].fingerprint["sampling"] == {"spans": "given"}


def test_labels_from_a_join_and_from_numbers(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("video,label,source\na,Fight,r1\nb,Fight,r1\nc,NonFight,r2\n")
    join = label_videos(IDS, labels_file=tmp_path / "labels.csv", positive=None, allow_unmatched=True)
    with open_cache(write_features(tmp_path / "a.zarr", arrays(), fps=2, labels=join)) as cache:
        assert cache.videos.label.tolist() == [1, 1, 0, -1] and cache.videos.source.tolist()[:2] == ["r1"] * 2
    numbers: Any = {IDS[0]: np.int64(1), IDS[3]: False}
    with open_cache(write_features(tmp_path / "b.zarr", arrays(), fps=2, labels=numbers)) as cache:
        assert cache.videos.label.tolist() == [1, -1, -1, 0] and cache.label_names == ("0", "1")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[1.0, np.nan]], "NaN or infinity"),
        ([[1.0, 1.0]], "one number throughout, such as token 0"),
        ([[1.0, 2.0, 3.0]], "3 wide, the others are 2"),
        (np.zeros((0, 2)), "is empty"),
        (np.zeros((1, 2, 2)), r"shape \[1, 2, 2\]"),
        (np.array([["a", "b"]]), "not numbers"),
        (np.array([[1, None]], dtype=object), "not numbers"),
        ([[1.0, 1e300]], "float32 cannot hold"),
    ],
)
def test_features_that_cannot_be_stored_are_named_and_nothing_is_left(
    tmp_path: Path, value: Any, said: str
) -> None:
    features = {"good": {"x": [[1.0, 2.0]]}, "bad": {"x": value}}
    with pytest.raises(InputError, match=f"bad: stream x: .*{said}"):
        write_features(tmp_path / "a.zarr", features, fps=1)
    assert not [name for name in tmp_path.iterdir() if not name.name.startswith("a.zarr.lock")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "when its 3 tokens are is not said"),
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": 2, "stride_seconds": 1}, "not both"),
        ({"window_seconds": 1}, "without stride_seconds"),
        ({"snippet": 16}, "without fps"),
        ({"fps": 2, "spans": {}}, "not both"),
        ({"spans": {IDS[0]: [[0, 1]]}}, r"3 tokens and spans of the shape \[1, 2\]"),
        ({"spans": {}}, "has no spans"),
        ({"spans": {IDS[0]: [[0, 1], [2, 1], [2, 3]]}}, "start <= end"),
        ({"spans": {IDS[0]: [[0, 1], [3, 4], [2, 3]]}}, "out of order"),
        ({"fps": 2, "labels": {"nowhere": "Fight"}}, "labels name 1 ids without features: nowhere"),
        ({"fps": 2, "splits": {IDS[0]: "later"}}, "a split is train, val or test"),
        ({"fps": 2, "dtype": "int8"}, "dtype must be"),
        ({"stride_seconds": -1}, "positive number of seconds"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        write_features(tmp_path / "a.zarr", arrays(), **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "a.zarr").exists()


def test_streams_must_be_the_same_throughout(tmp_path: Path) -> None:
    odd = arrays() | {"e": {"other": np.ones((1, 2))}}
    with pytest.raises(InputError, match="e has the streams other, others image"):
        write_features(tmp_path / "a.zarr", odd, fps=1)
    with pytest.raises(InputError, match="by stream"):
        write_features(tmp_path / "a.zarr", {"a": np.ones((1, 2))}, fps=1)  # type: ignore[dict-item]
    with pytest.raises(InputError, match="stream name 'A B'"):
        write_features(tmp_path / "a.zarr", {"a": {"A B": np.ones((1, 2))}}, fps=1)
    with pytest.raises(InputError, match="features are a mapping"):
        write_features(tmp_path / "a.zarr", [np.ones((1, 2))], fps=1)  # type: ignore[arg-type]
    for label in (None, 2, 0.5, " "):
        with pytest.raises(InputError, match="a label is a class name, 1 or 0"):
            write_features(tmp_path / "a.zarr", arrays(), fps=1, labels={IDS[0]: label})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="no features"):
        write_features(tmp_path / "a.zarr", {}, fps=1)


def test_a_cache_that_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a.zarr", arrays(), fps=2)
    before = read_contents(path)
    with pytest.raises(CacheError, match="exists"):
        write_features(path, arrays(), fps=2)
    assert read_contents(path) == before
    write_features(path, arrays(), fps=2, overwrite=True)
    assert read_contents(path) != before and not list(tmp_path.glob("*importing*"))


def test_what_a_killed_import_left_is_begun_again(tmp_path: Path) -> None:
    staging = tmp_path / "a.zarr.importing.zarr"
    write_features(staging, arrays(("left",)), fps=2)
    assert write_features(tmp_path / "a.zarr", arrays(), fps=2).exists() and not staging.exists()
    open_writer(staging).close()
    with pytest.raises(CacheError, match="a cache of its own"):
        write_features(tmp_path / "a.zarr", arrays(), fps=2, overwrite=True)
    assert staging.exists()


def test_the_digest_follows_the_values_in_any_order_and_format(tmp_path: Path) -> None:
    features = arrays()
    a = write_features(tmp_path / "a.zarr", features, fps=2)
    b = write_features(tmp_path / "b.h5", dict(reversed(features.items())), fps=2)
    convert(a, tmp_path / "c.h5")
    digests = []
    for path in (a, b, tmp_path / "c.h5"):
        with open_cache(path) as cache:
            assert not check_cache(cache)
            digests.append(cache.streams["image"].fingerprint["weights"]["digest"])
    assert len(set(digests)) == 1
    with CacheWriter.reopen(a) as writer:
        tokens = StreamTokens(np.arange(5, dtype=np.float32)[None], np.zeros((1, 2), np.float32))
        writer.commit([imported_video("late", {"image": tokens}, VideoLabel(-1, ""))], [])
    with open_cache(a) as cache:
        assert ["values are now" in str(problem) for problem in check_cache(cache)] == [True]


def test_only_what_is_said_to_be_made_alike_is_read_as_one(tmp_path: Path) -> None:
    paths = []
    for number, said in enumerate(("", "", "I3D", "I3D")):
        path = tmp_path / f"{number}.zarr"
        paths.append(write_features(path, arrays((f"v{number}",)), fps=2, made_by=said))
    with pytest.raises(FingerprintMismatch, match=r"weights.digest: .*--made-by"):
        open_cache(paths[0], paths[1])
    with pytest.raises(FingerprintMismatch, match="model: unknown here, I3D there"):
        open_cache(paths[0], paths[2])
    with open_cache(paths[2], paths[3]) as cache:
        assert len(cache) == 2 and "imported (I3D, " in weights_name(cache.streams["image"].fingerprint)
        assert not check_cache(cache)
    merge(paths[2:], tmp_path / "both.zarr")
    with open_cache(tmp_path / "both.zarr") as cache:
        assert len(cache) == 2 and not check_cache(cache)


def test_a_stream_joins_a_cache_of_the_same_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with open_writer(path) as writer:
        writer.commit([make_video("a.mp4"), make_video("b.mp4")], [])
    tokens = {i: StreamTokens(np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 2), np.float32))
              for i in ("b.mp4", "a.mp4")}  # fmt: skip
    plan = plan_of("i3d", dim=3, dtype="float32", sampling={"spans": "given"})
    one = [imported_video("a.mp4", {"i3d": tokens["a.mp4"]}, VideoLabel(-1, ""))]
    with pytest.raises(CacheError, match="lacks 1 videos"):
        attach_features(path, plan, one)
    attach_features(
        path, plan, [imported_video(i, {"i3d": t}, VideoLabel(-1, "")) for i, t in tokens.items()]
    )
    with open_cache(path) as cache:
        assert sorted(cache.streams) == ["clip", "i3d", "slowfast"] and not check_cache(cache)
        assert cache.videos.digest[0] and cache.tokens("i3d", 1).values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not list(tmp_path.glob("*importing*"))


def test_time_grids() -> None:
    grid = timing(fps=30, snippet=16)
    assert grid == Timing(16 / 30, 16 / 30) and timing() is None
    assert grid is not None and np.allclose(grid.spans(2), [[0, 16 / 30], [16 / 30, 32 / 30]])
    assert token_values(np.array([1, 2], np.int64), dim=2, dtype="float16").tolist() == [[1, 2]]
