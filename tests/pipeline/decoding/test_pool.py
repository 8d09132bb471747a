"""The decode pool: what hangs, dies or grows costs one video; memory is bounded; nothing outlives the parent."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from cache.errors import InputError, OnepassError
from pipeline.decoding import pool as pool_module
from pipeline.decoding import shared_block
from pipeline.decoding.decoders.base import DecoderName
from pipeline.decoding.pool import DecodePool, PoolSettings, TokenFrames, default_workers
from pipeline.decoding.sampling import token_spans
from pipeline.decoding.worker import Failed, Finished, Restarted, Task, Tokens
from tests.pipeline import fakes
from tests.pipeline.pools import Outcome, run_pool, settings_for
from tests.videos import BROKEN_FILES, GOOD_FILES, write_video

QUICK = PoolSettings(workers=2, deadline_seconds=2.0)


@pytest.fixture
def fake_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run the decoders of tests/pipeline/fakes.py."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)


def check_quiet(outcome: Outcome) -> None:
    """One second at 10 frames a second, decoded whole."""
    assert [int(t[0, 0, 0, 0]) for t in outcome.tokens[0]] == [0, 5]
    windows = [[int(frame[0, 0, 0]) // 128 for frame in t] for t in outcome.tokens[1]]
    assert windows == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert outcome.finished.video.n_frames == 10


# --- outcomes of real files ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("forked_here")
@pytest.mark.parametrize("decoder", ["decord", "pyav", "opencv"])
def test_good_files_are_decoded_and_broken_ones_rejected_with_the_right_reason(
    decoder: DecoderName, media: Path
) -> None:
    names = [*GOOD_FILES, *BROKEN_FILES]
    trial = run_pool([media / name for name in names], decoder)
    assert trial.worker_restarts == 0
    for name, outcome in zip(names, trial.outcomes, strict=True):
        if name in BROKEN_FILES:
            assert outcome.reason in BROKEN_FILES[name][1], f"{name}: {outcome.end}"
            continue
        video = outcome.finished.video
        for number, plan in enumerate(fakes.PLANS):
            tokens = outcome.tokens[number]
            assert len(tokens) == len(token_spans(video.duration_seconds, plan.sampling)), name
            assert tokens[0].shape == (plan.sampling.window, *plan.frames.shape)
        assert outcome.finished.digest.startswith("blake2b:")
        assert (video.width, video.height) == SIZES.get(name, (64, 48)), name


SIZES = {
    "rotated_90.mp4": (48, 64),
    "odd_161x121.mp4": (161, 121),
    "odd_161x121.mkv": (161, 121),
    "tiny_16x16.mp4": (16, 16),
    "wide_640x16.mp4": (640, 16),
}
PYAV_HAS_THE_LAST_WORD = {
    "rotated_90.mp4": "turned or mirrored",
    "tiny_16x16.mp4": "uint8",
    "negative_start.mp4": "first frame",
    "mpeg2.mpeg": "not used for mpeg files",
    "one_frame.mp4": "one frame",
}


@pytest.mark.usefixtures("forked_here")
def test_pyav_judges_what_decord_cannot_be_trusted_with(media: Path) -> None:
    trial = run_pool([media / name for name in PYAV_HAS_THE_LAST_WORD], "decord")
    for (name, why), outcome in zip(PYAV_HAS_THE_LAST_WORD.items(), trial.outcomes, strict=True):
        assert outcome.finished.decoder == "pyav", name
        assert why in outcome.restarts[0].why
        assert outcome.finished.notes == (outcome.restarts[0].why,)


@pytest.mark.usefixtures("forked_here")
def test_the_same_tokens_whatever_the_decoder_and_the_workers(media: Path) -> None:
    paths = [media / name for name in ("h264.mp4", "h264_b_frames.mp4", "ntsc.mp4", "mpeg4.avi", "hevc.mp4")]
    first = run_pool(paths, "pyav", pool=PoolSettings(workers=1))
    for decoder in ("decord", "opencv"):
        other = run_pool(paths, decoder, pool=PoolSettings(workers=2, slots=2))  # type: ignore[arg-type]
        for a, b in zip(first.outcomes, other.outcomes, strict=True):
            assert b.finished.decoder == (decoder if b.finished.number != 3 else "pyav")
            for number in range(len(fakes.PLANS)):
                np.testing.assert_array_equal(np.stack(a.tokens[number]), np.stack(b.tokens[number]))


def test_a_pool_without_tasks_ends_at_once() -> None:
    assert run_pool([]).outcomes == []


@pytest.mark.usefixtures("forked_here")
def test_missing_files_folders_and_unreadable_files_have_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    names = ("nowhere.mp4", "dangling.mp4", "folder.mp4", "loop.mp4", "pipe.mp4")
    trial = run_pool([tmp_path / name for name in names], pool=PoolSettings(workers=1, deadline_seconds=10))
    reasons = [outcome.reason for outcome in trial.outcomes]
    assert reasons == [
        "missing-file",
        "missing-file",
        "unreadable-file",
        "unreadable-file",
        "empty-file",
    ]


@pytest.mark.usefixtures("forked_here")
def test_a_file_name_that_is_not_utf8_is_decoded(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    for decoder in ("decord", "opencv", "pyav"):
        outcome = run_pool([tmp_path / name], decoder).outcomes[0]  # type: ignore[arg-type]
        assert outcome.finished.decoder == "pyav"


def test_the_terminal_stays_quiet(media: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg complains on stderr, OpenCV hands it on to stdout; neither reaches the parent's."""
    for decoder in ("decord", "opencv", "pyav"):
        trial = run_pool([media / "truncated_half.mp4", media / "text.mp4"], decoder)  # type: ignore[arg-type]
        assert "moov" in trial.outcomes[0].detail  # it went into the reject
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


# --- decoders that misbehave --------------------------------------------------------------------------------

MISDEEDS = {  # what the decoder does -> reason with PyAV, words of the detail
    "hang": ("deadline", "no frame for 2 s"),
    "open": ("deadline", "no frame for 2 s"),
    "crash": ("decoder-crash", "signal 11"),
    "exit": ("decoder-crash", "ended (7)"),
    "memory": ("out-of-memory", "ran out of memory"),
    "fault": ("decoder-crash", "RuntimeError: a fault in the decoder"),
    "problem": ("decode-errors", "frame 5 is broken"),
}


@pytest.mark.usefixtures("fake_decoders", "forked_here")
def test_every_misdeed_costs_one_video(tmp_path: Path) -> None:
    paths = []
    for deed in MISDEEDS:
        paths += fakes.write_names(tmp_path, f"{deed}_bad.mp4", f"quiet_{deed}.mp4")
    trial = run_pool(paths, "pyav", pool=QUICK)
    for number, (deed, (reason, words)) in enumerate(MISDEEDS.items()):
        outcome = trial.outcomes[2 * number]
        assert (outcome.reason, words in outcome.detail) == (reason, True), f"{deed}: {outcome.end}"
        check_quiet(trial.outcomes[2 * number + 1])
    assert trial.worker_restarts == 4  # hang, open, crash, exit


@pytest.mark.usefixtures("fake_decoders", "forked_here")
def test_pyav_gets_every_video_that_another_decoder_failed_on(tmp_path: Path) -> None:
    deeds = [deed for deed in MISDEEDS if deed != "memory"]
    paths = fakes.write_names(tmp_path, *(f"decord-{deed}_bad.mp4" for deed in [*deeds, "noise"]))
    trial = run_pool(paths, "decord", pool=QUICK)
    for deed, outcome in zip([*deeds, "noise"], trial.outcomes, strict=True):
        check_quiet(outcome)
        assert outcome.finished.decoder == "pyav", deed
        assert len(outcome.restarts) == 1 and outcome.restarts[0].why.startswith("decord: "), deed
    assert "something is wrong" in trial.outcomes[-1].restarts[0].why


@pytest.mark.usefixtures("fake_decoders")
def test_a_decoder_that_eats_memory_is_killed(tmp_path: Path) -> None:
    paths = fakes.write_names(tmp_path, "eat_a.mp4", "decord-eat_b.mp4", "quiet_c.mp4")
    limit = PoolSettings(workers=1, worker_memory_bytes=500 << 20)
    eater, passing, quiet = run_pool(paths, "decord", pool=limit).outcomes
    assert eater.reason == "out-of-memory" and "over 500 MiB" in eater.detail
    assert "out-of-memory" in passing.restarts[0].why
    check_quiet(passing)
    check_quiet(quiet)


@pytest.mark.usefixtures("fake_decoders", "forked_here")
def test_noise_alone_is_no_reason_to_reject(tmp_path: Path) -> None:
    outcome = run_pool(fakes.write_names(tmp_path, "noise_a.mp4"), "pyav").outcomes[0]
    check_quiet(outcome)
    assert not outcome.restarts
    (note,) = outcome.finished.video.notes
    assert "something is wrong" in note


@pytest.mark.usefixtures("fake_decoders", "forked_here")
def test_a_slow_decode_is_no_hang(tmp_path: Path) -> None:
    """0.4 s for one frame under a deadline of two seconds."""
    trial = run_pool(fakes.write_names(tmp_path, "slow_a.mp4", "slow_b.mp4"), pool=QUICK)
    assert all(isinstance(outcome.end, Finished) for outcome in trial.outcomes)
    assert trial.worker_restarts == 0


@pytest.mark.usefixtures("fake_decoders", "forked_here")
def test_a_slow_consumer_is_no_hang(tmp_path: Path) -> None:
    """The worker waits for slots longer than the deadline: that is the parent's doing."""
    paths = fakes.write_names(tmp_path, "long30_a.mp4")
    ended = []
    with DecodePool(
        PoolSettings(workers=1, deadline_seconds=0.6), worker_settings=settings_for()
    ) as decode_pool:
        for number, event in enumerate(decode_pool.run([Task(0, str(paths[0]), "pyav")])):
            if isinstance(event, TokenFrames):
                time.sleep(0.9 if number < 4 else 0)
            else:
                ended.append(event)
    assert [type(event) for event in ended] == [Finished]
    assert ended[0].wait_seconds > 1.5  # type: ignore[union-attr]


@pytest.mark.usefixtures("fake_decoders")
@pytest.mark.parametrize(
    ("number", "decoder", "reason"),
    [
        (signal.SIGKILL, "pyav", "decoder-crash"),
        (signal.SIGSTOP, "pyav", "deadline"),
        (signal.SIGSTOP, "decord", ""),
    ],
)
def test_a_worker_that_is_killed_or_stopped_from_outside(
    number: signal.Signals, decoder: DecoderName, reason: str, tmp_path: Path
) -> None:
    paths = fakes.write_names(tmp_path, "long60_a.mp4", "quiet_b.mp4")
    events = []
    hit = False
    with DecodePool(
        PoolSettings(workers=1, deadline_seconds=1.0), worker_settings=settings_for()
    ) as decode_pool:
        tasks = [Task(n, str(path), decoder) for n, path in enumerate(paths)]
        for event in decode_pool.run(tasks):
            if isinstance(event, TokenFrames):
                if not hit:
                    hit = True
                    os.kill(decode_pool._workers[0].process.pid, number)  # type: ignore[arg-type]
            else:
                events.append(event)
        assert decode_pool.restarts == 1
    if reason:
        assert isinstance(events[0], Failed) and events[0].reason == reason
    else:
        assert [type(event) for event in events] == [Restarted, Finished, Finished]
    assert isinstance(events[-1], Finished)


@pytest.mark.usefixtures("fake_decoders")
def test_a_worker_that_dies_between_two_videos_costs_none(tmp_path: Path) -> None:
    paths = fakes.write_names(tmp_path, "quiet_a.mp4", "quiet_b.mp4")
    with DecodePool(PoolSettings(workers=1), worker_settings=settings_for()) as decode_pool:
        ends = []
        for path in paths:
            events = list(decode_pool.run([Task(0, str(path), "pyav")]))
            ends.append(type(events[-1]))
            process = psutil.Process(decode_pool._workers[0].process.pid)
            process.kill()
            process.wait(5)
    assert ends == [Finished, Finished]


def test_workers_that_cannot_start_end_the_run_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation must not reject a data set video by video."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.dies_at_once)
    with pytest.raises(OnepassError, match=r"before they began .*ended \(3\)"):
        run_pool(fakes.write_names(tmp_path, *(f"quiet_{n}.mp4" for n in range(20))))


@pytest.mark.usefixtures("fake_decoders")
def test_a_worker_that_has_grown_is_replaced_between_videos(tmp_path: Path) -> None:
    """decord keeps memory from one video to the next; the next one must not be blamed for it."""
    paths = fakes.write_names(tmp_path, *(f"grow_{n}.mp4" for n in range(8)))
    trial = run_pool(paths, pool=PoolSettings(workers=1, worker_memory_bytes=600 << 20))
    for outcome in trial.outcomes:
        check_quiet(outcome)
    assert trial.worker_restarts == 0


# --- memory and lifetime ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_decoders")
def test_memory_does_not_depend_on_the_length(tmp_path: Path) -> None:
    short = run_pool(fakes.write_names(tmp_path, "long1_a.mp4"), pool=PoolSettings(workers=2))
    paths = fakes.write_names(tmp_path, "long600_a.mp4")
    peak = 0
    with DecodePool(PoolSettings(workers=2), worker_settings=settings_for()) as decode_pool:
        assert decode_pool.shared_bytes == short.shared_bytes
        n_tokens = 0
        for event in decode_pool.run([Task(0, str(paths[0]), "pyav")]):
            if isinstance(event, TokenFrames) and event.stream == 0:
                n_tokens += len(event.frames)
                if event.first % 160 == 0:
                    peak = max(peak, psutil.Process(decode_pool._workers[0].process.pid).memory_info().rss)
        end = psutil.Process(decode_pool._workers[0].process.pid).memory_info().rss
    assert n_tokens == 1200
    assert max(peak, end) < 400 << 20


def test_shared_memory_is_slots_times_workers() -> None:
    with DecodePool(PoolSettings(workers=1, slots=2), worker_settings=settings_for()) as one:
        slot_bytes = max(fakes.PLANS[0].token_bytes * 16, fakes.PLANS[1].token_bytes)
        assert one.shared_bytes == slot_bytes * 3  # two streams may each hold a slot open, and one must move


@pytest.mark.usefixtures("fake_decoders")
def test_decoding_stops_when_nobody_takes_frames(tmp_path: Path) -> None:
    """Back-pressure: with all slots full the worker waits instead of decoding on."""
    paths = fakes.write_names(tmp_path, "long600_a.mp4")
    with DecodePool(PoolSettings(workers=1), worker_settings=settings_for()) as decode_pool:
        events = decode_pool.run([Task(0, str(paths[0]), "pyav")])
        next(events)
        process = psutil.Process(decode_pool._workers[0].process.pid)
        time.sleep(0.5)
        before = process.cpu_times().user
        time.sleep(1.0)
        assert process.cpu_times().user - before < 0.1
        waiting: list[Tokens] = []
        while decode_pool._workers[0].connection.poll():
            waiting.append(decode_pool._workers[0].connection.recv())
        assert 0 < len(waiting) <= 3


@pytest.mark.usefixtures("fake_decoders")
def test_leaving_the_pool_in_the_middle_ends_its_workers(tmp_path: Path) -> None:
    paths = fakes.write_names(tmp_path, "long600_a.mp4", "hang_b.mp4")
    with DecodePool(PoolSettings(workers=2), worker_settings=settings_for()) as decode_pool:
        events = decode_pool.run([Task(n, str(path), "pyav") for n, path in enumerate(paths)])
        next(events)
        processes = [psutil.Process(item.process.pid) for item in decode_pool._workers]
        folder = decode_pool._scratch.path
        assert folder.is_dir()
    assert not any(process.is_running() for process in processes)
    assert not folder.exists()


def test_a_worker_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out for the process that feeds a GPU, which cost 3 to 10 % (docs/gpu.md), and no cap but that of --workers."""
    monkeypatch.setattr(pool_module, "usable_cores", lambda: 96)
    assert default_workers() == 96
    monkeypatch.setattr(pool_module, "usable_cores", lambda: 384)
    assert PoolSettings(workers=default_workers()).workers == 256


def test_settings_are_checked() -> None:
    for workers in (0, -1, 257, 1.5, "2", True):
        with pytest.raises(InputError, match="--workers must be a whole number between 1 and 256"):
            PoolSettings(workers=workers)  # type: ignore[arg-type]
    for bad in ({"slots": 1}, {"deadline_seconds": 0.0}, {"deadline_seconds": float("nan")}):
        with pytest.raises(ValueError, match=r"need at least|must be positive"):
            PoolSettings(**bad)  # type: ignore[arg-type]
    assert 1 <= default_workers() <= 16


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert pool_module._resident_bytes(2**22 - 1) == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_frames_that_pass_through_a_disk_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives /dev/shm 64 MB unless told otherwise."""
    allocate = shared_block._allocate

    def full(descriptor: int, n_bytes: int) -> None:
        if n_bytes > 8 and str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/dev/shm"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, n_bytes)

    with DecodePool(PoolSettings(workers=1), worker_settings=settings_for()) as pool:
        assert pool.note == ""
    monkeypatch.setattr(shared_block, "_allocate", full)
    with DecodePool(PoolSettings(workers=2), worker_settings=settings_for()) as pool:
        assert "/dev/shm has no room for the frames of 2 of 2 decode workers" in pool.note
        assert f"--shm-size={(pool.shared_bytes >> 20) + 64}m" in pool.note


def test_a_lent_slot_comes_back_only_once_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames stay as they are while they are lent, however many the worker still has to hand over."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    (path,) = fakes.write_names(tmp_path, "long60_a.mp4")
    lent: list[tuple[TokenFrames, NDArray[Any], list[int]]] = []

    def reading(asked: list[int]) -> Callable[[], bool]:
        def read() -> bool:
            asked.append(1)
            return len(asked) > 20

        return read

    settings = PoolSettings(workers=1, slots=2)
    with DecodePool(settings, worker_settings=settings_for()) as pool:
        for event in pool.run([Task(0, str(path), "pyav")]):
            if isinstance(event, TokenFrames):
                asked: list[int] = []
                event.read = reading(asked)
                lent.append((event, event.frames.copy(), asked))
            for held, copy, times in lent:
                if len(times) <= 20:
                    np.testing.assert_array_equal(held.frames, copy)
    assert len(lent) > 6 and all(len(times) > 20 for _, _, times in lent[:-4])


def test_memory_that_is_being_read_is_not_given_to_the_next_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    paths = fakes.write_names(tmp_path, "latecrash_a.mp4", "quiet_b.mp4")
    pinned: list[int] = []
    undone: list[int] = []

    def pin(view: Any) -> Callable[[], None]:
        number = len(pinned)
        pinned.append(view.nbytes)
        return lambda: undone.append(number)

    frames: list[tuple[NDArray[Any], NDArray[Any]]] = []
    done = False
    with DecodePool(PoolSettings(workers=1), worker_settings=settings_for(), pin=pin) as pool:
        for event in pool.run([Task(n, str(path), "pyav") for n, path in enumerate(paths)]):
            if isinstance(event, TokenFrames) and event.number == 0:
                event.read = lambda: done
                frames.append((event.frames, event.frames.copy()))
            for now, before in frames:
                np.testing.assert_array_equal(now, before)
        assert frames, "nothing was lent"
        assert pool.restarts == 1 and len(pinned) == 2
        done = True
    assert sorted(undone) == list(range(len(pinned)))


def test_pinned_memory_stays_mapped_until_it_is_not_pinned_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a dead worker left is given back once it was read, else a device would go on reading those pages."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    names = [f"{'latecrash' if n % 2 else 'long3'}_{n}.mp4" for n in range(16)]
    paths = fakes.write_names(tmp_path, *names)
    pinned: dict[int, int] = {}
    most = 0

    def mapped(address: int) -> bool:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
        return any(begin <= address < end for begin, end in ranges)

    def pin(view: Any) -> Callable[[], None]:
        address = np.frombuffer(view, np.uint8).ctypes.data
        assert address not in pinned, "pinned twice"
        pinned[address] = view.nbytes

        def undo() -> None:
            assert mapped(address)
            del pinned[address]

        return undo

    def read_after(looks: int) -> Callable[[], bool]:
        asked: list[int] = []
        return lambda: asked.append(1) is None and len(asked) > looks

    with DecodePool(PoolSettings(workers=2), worker_settings=settings_for(), pin=pin) as pool:
        for event in pool.run([Task(n, str(path), "pyav") for n, path in enumerate(paths)]):
            if isinstance(event, TokenFrames):
                event.read = read_after(4)
            assert len(pinned) >= 2 and all(mapped(address) for address in pinned)
            most = max(most, len(pinned))
        assert pool.restarts == 8
    assert not pinned and 2 < most < 8
