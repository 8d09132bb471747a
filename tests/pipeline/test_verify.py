"""`verify` passes a right cache and finds every kind of wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, FingerprintMismatch, InputError, ParityError
from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures
from cache.writer import CacheWriter
from pipeline import run as run_module
from pipeline.cli.verify import verify_command
from pipeline.decoding.decoders.base import FrameRef
from pipeline.decoding.decoders.pyav import PyAVFrames
from pipeline.decoding.sampling import Sampling, token_spans
from pipeline.verify import (
    TOKENS_A_VIDEO,
    Comparison,
    StreamVerdict,
    check_weights,
    choose_tokens,
    compare_video,
    misplaced_tokens,
    plain_token_count,
    verdicts,
)
from tests.pipeline.fine_colours import converts_alike, fine_noise, write_pictures
from tests.pipeline.tiny import tiny_backbones
from tests.pipeline.trees import GOOD, make_tree, run
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("forked_workers")


GOOD_ONE = next(iter(GOOD))


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("verify") / "data")


@pytest.fixture(scope="module")
def right(src: Path) -> Path:
    """A right cache of tiny features. Read-only by agreement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
        run(src, src.parent / "right.zarr")
    return src.parent / "right.zarr"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.backbones.load.load_backbones", lambda config, **_: tiny_backbones(*config.names)
    )


def _rewritten(
    right: Path,
    out: Path,
    change: Callable[[str, str, StreamTokens], StreamTokens],
    *,
    precision: str = "fp32",
    **columns: Any,
) -> Path:
    """A copy of the cache whose tokens went through `change(video id, stream, tokens)`; columns: of every row."""
    with open_cache(right) as cache:
        specs = [
            StreamSpec(n, i.dim, i.dtype, {**i.fingerprint, "precision": precision})
            for n, i in cache.streams.items()
        ]
        videos = []
        for index in range(cache.n_videos):
            row = replace(cache.videos.row(index), **columns)
            tokens = {name: change(row.id, name, cache.tokens(name, index)) for name in cache.streams}
            videos.append(VideoFeatures(row, tokens))
        with CacheWriter.open(
            out, streams=specs, dataset="x", label_names=cache.label_names, provenance={}
        ) as writer:
            writer.commit(videos, [])
    return out


def verify(cache: Path, src: Path, *, sample: int = 5) -> None:
    verify_command(cache, src=src, sample=sample, seed=0)


def test_a_right_cache_passes(right: Path, src: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(right, src)
    printed = capsys.readouterr().out
    assert printed.count("cosine 1.000000") == 2 * len(GOOD) + 2  # and one line a stream
    assert "5 videos, 3 rejects, all values finite, none constant" in printed
    assert printed.count(": ok\n") == 2 and "BELOW" not in printed


def _spoilt(values: NDArray[Any], how: str) -> NDArray[Any]:
    spoilt = values.copy()
    if how == "one value":
        spoilt[-1, 3] += 0.01 * np.abs(spoilt).max()
    elif how == "swapped tokens":
        spoilt = spoilt[::-1].copy()
    elif how == "scaled":
        spoilt = (spoilt * 1.01).astype(spoilt.dtype)
    elif how == "other video":
        spoilt = np.roll(spoilt, 1, axis=1)
    return spoilt


@pytest.mark.parametrize("how", ["one value", "swapped tokens", "scaled", "other video"])
@pytest.mark.parametrize("stream", ["clip", "slowfast"])
def test_features_that_were_tampered_with_fail(
    how: str, stream: str, right: Path, src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(video_id: str, name: str, tokens: StreamTokens) -> StreamTokens:
        if name != stream or video_id != GOOD[0]:
            return tokens
        return StreamTokens(_spoilt(tokens.values, how), tokens.spans)

    wrong = _rewritten(right, tmp_path / "wrong.zarr", change)
    with pytest.raises(ParityError, match="1 of 2 streams below the bound, 0 of 5"):
        verify(wrong, src)
    assert capsys.readouterr().out.count("BELOW") == 1


def test_a_missing_token_fails(right: Path, src: Path, tmp_path: Path) -> None:
    def drop(video_id: str, name: str, tokens: StreamTokens) -> StreamTokens:
        if video_id != GOOD[3] or name != "clip":
            return tokens
        return StreamTokens(tokens.values[:-1], tokens.spans[:-1])

    wrong = _rewritten(right, tmp_path / "wrong.zarr", drop)
    with pytest.raises(ParityError, match="1 of 5 videos could not be compared"):
        verify(wrong, src)


def test_a_changed_or_missing_file_cannot_be_compared(right: Path, src: Path, tmp_path: Path) -> None:
    moved = make_tree(tmp_path / "data")
    write_video(moved / GOOD[0], seconds=1, seed=1234)
    (moved / GOOD[1]).unlink()
    with pytest.raises(ParityError, match="2 of 5 videos could not be compared"):
        verify(right, moved)


def test_an_unknown_digest_is_no_changed_file(right: Path, src: Path, tmp_path: Path) -> None:
    verify(_rewritten(right, tmp_path / "unknown.zarr", lambda _id, _stream, tokens: tokens, digest=""), src)


def test_other_weights_are_refused(right: Path) -> None:
    with open_cache(right) as cache, pytest.raises(FingerprintMismatch, match="--weights-file clip=FILE"):
        check_weights(cache, tiny_backbones(seed=1))


def test_a_broken_structure_is_found_first(right: Path, src: Path, tmp_path: Path) -> None:
    """A constant token cannot come from a video; the writer alone would not notice."""

    def flat(video_id: str, name: str, tokens: StreamTokens) -> StreamTokens:
        return StreamTokens(np.ones_like(tokens.values), tokens.spans) if name == "clip" else tokens

    with pytest.raises(CacheCorrupt, match="problems of structure or contents"):
        verify(_rewritten(right, tmp_path / "wrong.zarr", flat), src)


def test_a_sample_needs_a_video(right: Path, src: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        verify(right, src, sample=0)


def test_a_long_video_is_sampled_and_order_does_not_matter(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
        write_video(tmp_path / "data/a.mp4", seconds=12, seed=3)
        run(tmp_path / "data", tmp_path / "c.zarr")
    with open_cache(tmp_path / "c.zarr") as cache:
        for seed in range(3):
            verified = compare_video(
                cache, 0, tmp_path / "data/a.mp4", tiny_backbones(), rng=np.random.default_rng(seed)
            )
            assert verified.confirmed_by == "opencv" and not verified.note and not verified.misplaced
            found = verified.comparisons
            assert 7 <= sum(c.stream == "clip" for c in found) <= TOKENS_A_VIDEO
            assert all(c.relative_error < 1e-3 and c.cosine > 0.999999 for c in found)


@pytest.mark.parametrize("stream", ["clip", "slowfast"])
def test_a_token_in_the_place_of_another_is_named(
    stream: str, right: Path, src: Path, tmp_path: Path
) -> None:
    def change(_: str, name: str, tokens: StreamTokens) -> StreamTokens:
        return (
            StreamTokens(_spoilt(tokens.values, "swapped tokens"), tokens.spans) if name == stream else tokens
        )

    wrong = _rewritten(right, tmp_path / "wrong.zarr", change)
    with open_cache(wrong) as cache:
        index = int(np.argmax([len(cache.tokens(stream, n).values) for n in range(len(cache))]))
        path = src / str(cache.videos.id[index])
        verified = compare_video(cache, index, path, tiny_backbones(), rng=np.random.default_rng(0))
    (said,) = verified.misplaced
    assert said.startswith(f"{stream}: token 0 holds the features of token ")


@given(st.floats(0, 200), st.sampled_from([2.0, 15.0]), st.integers(1, 40), st.data())
def test_the_plain_count_is_that_of_the_spans(
    duration: float, fps: float, window: int, data: st.DataObject
) -> None:
    sampling = Sampling(fps=fps, window=window, stride=data.draw(st.integers(1, window)))
    assert plain_token_count(duration, sampling) == len(token_spans(duration, sampling))


@pytest.mark.parametrize(
    ("precision", "n_tokens", "cosine", "error", "ok"),
    [
        ("fp32", 4, 1.0, 9e-4, True),
        ("fp32", 4, 1.0, 2e-3, False),
        ("bf16", 4, 0.9991, 2e-2, True),
        ("bf16", 4, 0.9989, 1e-9, False),
        ("fp32", 0, math.nan, math.nan, False),
        ("bf16", 4, math.nan, 0.0, False),
        ("fp32", 4, 1.0, math.nan, False),
    ],
)
def test_bounds(precision: str, n_tokens: int, cosine: float, error: float, ok: bool) -> None:
    verdict = StreamVerdict("clip", precision, n_tokens, cosine, error)
    assert verdict.ok is ok
    assert ("relative error" in verdict.bound) == (precision == "fp32")


@pytest.mark.parametrize(
    ("centred", "n_centred", "ok"), [(0.991, 3, True), (0.989, 3, False), (math.nan, 0, True)]
)
def test_without_the_mean_tokens_have_a_bound_of_their_own(centred: float, n_centred: int, ok: bool) -> None:
    verdict = StreamVerdict("slowfast", "bf16", 4, 0.9999, 1e-3, centred, n_centred)
    assert verdict.ok is ok and ("BELOW" in str(verdict)) is not ok
    assert ("all like the mean" in str(verdict)) == (n_centred == 0)


def test_a_token_of_another_video_is_found_however_alike_all_are(
    right: Path,
    src: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Features that are nearly one direction, exchanged by a little: the cosine passes, the one without the mean does not."""
    base, part = 40.0 * np.ones(8), 16.0

    def load(config: Any, **_: Any) -> dict[str, Any]:
        backbones = tiny_backbones(*config.names)
        for backbone in backbones.values():
            monkeypatch.setattr(
                backbone, "embed_plainly", partial(_alike, backbone.embed_plainly, base, part)
            )
        return backbones

    def alike(video_id: str, name: str, tokens: StreamTokens) -> StreamTokens:
        return StreamTokens((base + part * tokens.values).astype(np.float16), tokens.spans)

    def turned(video_id: str, name: str, tokens: StreamTokens) -> StreamTokens:
        values = alike(video_id, name, tokens).values
        if name == "clip" and video_id == GOOD_ONE:
            values = (values + 1.5 * np.resize([1, -1], 8)).astype(np.float16)
        return StreamTokens(values, tokens.spans)

    monkeypatch.setattr("pipeline.backbones.load.load_backbones", load)
    verify(_rewritten(right, tmp_path / "right.zarr", alike, precision="bf16"), src)
    assert capsys.readouterr().out.count(": ok") == 2
    with pytest.raises(ParityError, match="1 of 2 streams below the bound"):
        verify(_rewritten(right, tmp_path / "wrong.zarr", turned, precision="bf16"), src)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "BELOW" in line]
    assert "worst cosine 0.999" in line and "without the mean 0." in line


def _alike(embed: Any, base: NDArray[Any], part: float, frames: Any) -> NDArray[np.float32]:
    return np.asarray(base + part * embed(frames), np.float32)


def test_tokens_that_rounding_may_turn_about_the_mean_say_nothing(right: Path, tmp_path: Path) -> None:
    """mobilevit_xxs of random weights in bf16: all tokens within 0.99995, 0.06 of them beside the mean, and 0.985 of that.

    Where most are further off, it is not rounding that turns them.
    """
    turned = [Comparison("a", "clip", n, 0.99995, 0.01, 0.985, 0.06) for n in range(5)]
    telling = Comparison("a", "clip", 5, 0.99995, 0.01, 0.999, 0.2)
    anothers = replace(telling, cosine=0.9992, centred_cosine=0.98)
    off = [replace(one, cosine=0.9993, centred_cosine=0.95, centred_share=0.15) for one in turned]
    cases = [(turned, 0, True), ([*turned, telling], 1, True), ([*turned, telling, anothers], 2, False)]
    with open_cache(
        _rewritten(right, tmp_path / "bf16.zarr", lambda *given: given[-1], precision="bf16")
    ) as cache:
        for compared, n_centred, ok in [*cases, (off, 5, False)]:
            (found,) = [v for v in verdicts(cache, compared) if v.stream == "clip"]
            assert found.n_centred == n_centred and found.ok is ok


def test_not_a_number_is_the_worst_value(right: Path) -> None:

    with open_cache(right) as cache:
        for values in ((0.9999, math.nan), (math.nan, 0.9999)):
            found = verdicts(cache, [Comparison("a", "clip", n, v, v) for n, v in enumerate(values)])
            assert not found[0].ok and math.isnan(found[0].worst_cosine)
            assert not found[1].ok and found[1].n_tokens == 0


def test_a_decoder_that_lies_is_found_out_by_another(
    right: Path, src: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder on record gives every picture one place late, in the cache's run as in this one: only another one can tell."""
    honest = PyAVFrames.__iter__

    def late(self: PyAVFrames) -> Iterator[FrameRef]:
        before: FrameRef | None = None
        for frame in honest(self):
            picture = (before or frame).rgb().copy()
            yield FrameRef(frame.pts_seconds, frame.next_pts_seconds, partial(np.copy, picture))
            before = FrameRef(0.0, None, partial(np.copy, frame.rgb()))

    monkeypatch.setattr(PyAVFrames, "__iter__", late)
    with pytest.raises(ParityError, match="none of the 5 videos that were looked at could be compared"):
        verify(right, src)
    assert capsys.readouterr().out.count("no other decoder agrees with pyav on its frames") == 5


def test_a_token_that_is_its_neighbour_is_misplaced_however_alike_they_are() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    plain = {n: (base + 1e-4 * rng.normal(size=64)).astype(np.float32) for n in range(4)}
    stored = np.stack([plain[n] + 1e-6 * rng.normal(size=64) for n in range(4)])
    assert misplaced_tokens(stored, plain) == ""
    shifted = stored[[0, 1, 3, 2]]
    a, b = shifted[2], plain[2]
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999999  # no bound on the cosine would tell
    assert misplaced_tokens(shifted, plain) == "token 2 holds the features of token 3"


@pytest.mark.parametrize("decoder", ["pyav", "opencv"])
def test_tokens_may_share_a_frame(decoder: str, src: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three seconds a frame: six tokens of `clip` are one picture."""
    folder = src.parent / f"slow_{decoder}"
    write_video(folder / "a.mp4", times_seconds=[0.0, 3.0, 6.0, 9.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
        run(folder, src.parent / f"slow_{decoder}.zarr", decoder=decoder)
    verify(src.parent / f"slow_{decoder}.zarr", folder)
    assert "frames confirmed by" in capsys.readouterr().out


@converts_alike
def test_10_bits_with_colours_as_fine_as_noise_are_confirmed(
    src: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = src.parent / "ten_bit"
    folder.mkdir()
    write_pictures(folder / "a.mp4", fine_noise(10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
        run(folder, src.parent / "ten_bit.zarr")
    verify(src.parent / "ten_bit.zarr", folder)
    assert "frames confirmed by opencv" in capsys.readouterr().out


def test_pairs_of_neighbours_are_chosen_from_a_long_video() -> None:
    chosen = choose_tokens(1000, np.random.default_rng(0))
    assert TOKENS_A_VIDEO // 2 < len(chosen) <= TOKENS_A_VIDEO
    assert all(n + 1 in chosen or n - 1 in chosen for n in chosen)
    assert choose_tokens(5, np.random.default_rng(0)) == [0, 1, 2, 3, 4]


def _with_imported(right: Path, out: Path, *, change: bool = False) -> Path:
    """A copy of the cache with an imported stream beside its own."""
    from cache.convert import convert
    from cache.features import attach_features, imported_video, plan_of
    from cache.schema import VideoLabel

    convert(right, out)
    rng = np.random.default_rng(0)
    with open_cache(out) as cache:
        ids = cache.videos.id.tolist()
    tokens = StreamTokens(rng.normal(size=(1, 4)).astype(np.float32), np.zeros((1, 2), np.float32))
    plan = plan_of("i3d", dim=4, dtype="float32", sampling={"spans": "none"}, made_by="I3D")
    attach_features(out, plan, [imported_video(i, {"i3d": tokens}, VideoLabel(-1, "")) for i in ids])
    if change:
        values = out / "streams/i3d/values/c.0.0"
        stored = np.frombuffer(values.read_bytes(), np.float32).copy()
        stored[0] += 1
        values.write_bytes(stored.tobytes())
    return out


def test_what_was_imported_is_said_and_the_rest_compared(
    right: Path, src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _with_imported(right, tmp_path / "i.zarr")
    verify(out, src)
    printed = capsys.readouterr().out
    assert "stream i3d: imported (I3D, " in printed and "cannot be repeated" in printed
    assert printed.count(": ok\n") == 2
    with pytest.raises(InputError, match="--src"):
        verify_command(out, src=None, sample=5, seed=0)
    with pytest.raises(CacheCorrupt, match="1 problems"):
        verify(_with_imported(right, tmp_path / "j.zarr", change=True), src)
    assert "imported with the digest" in capsys.readouterr().out


def test_a_cache_of_features_made_elsewhere_needs_no_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cache import write_features
    from tests.cache.builders import make_video, open_writer

    path = write_features(tmp_path / "a.zarr", {"a": {"i3d": [[1.0, 2.0]]}})
    verify_command(path, src=None, sample=5, seed=0)
    assert "nothing was repeated" in capsys.readouterr().out
    with open_writer(tmp_path / "b.zarr") as writer:
        writer.commit([make_video("a.mp4")], [])
    verify_command(tmp_path / "b.zarr", src=None, sample=5, seed=0)
    assert capsys.readouterr().out.count("not by a kind of stream that is installed here") == 2


def test_extract_says_that_it_cannot_go_on_with_imported_features(
    right: Path, src: Path, tmp_path: Path
) -> None:
    out = _with_imported(right, tmp_path / "i.zarr")
    with pytest.raises(FingerprintMismatch, match=r"holds i3d, imported: .*onepass import") as caught:
        run(src, out)
    assert "\n" not in str(caught.value)
