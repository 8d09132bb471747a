"""The file is asked whether a decode went wrong because of its contents or because it could not be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.trouble import FileWatch, fault, file_stamp, has_odd_time, reading_trouble, stamp_of
from pipeline.decoding.worker import file_digest
from tests.videos import write_video


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.mp4"
    found.write_bytes(b"contents")
    return found


def test_a_file_that_is_as_it_was_leaves_the_verdict_to_its_contents(path: Path) -> None:
    watch, digest = FileWatch(str(path)), file_digest(str(path))
    for clean in (True, False):
        assert watch.trouble(digest, lambda: file_digest(str(path)), clean=clean) is None
    assert watch.stamp == file_stamp(path)


def test_a_clean_decode_of_an_untouched_file_is_not_read_again(path: Path) -> None:
    watch = FileWatch(str(path))
    assert watch.trouble("blake2b:any", lambda: pytest.fail("read again"), clean=True) is None


def test_a_file_that_grows_is_changed_and_one_that_is_touched_is_not(path: Path) -> None:
    watch, digest = FileWatch(str(path)), file_digest(str(path))
    os.utime(path, (1, 1))
    assert watch.trouble(digest, lambda: file_digest(str(path)), clean=True) is None
    assert watch.stamp == (8, 1_000_000_000)
    path.write_bytes(b"contents and more")
    found = watch.trouble(digest, lambda: file_digest(str(path)), clean=True)
    assert found == ("changed-while-read", "the file changed while it was read")


def test_a_file_that_changes_while_it_is_read_again_is_changed(path: Path) -> None:
    watch, digest = FileWatch(str(path)), file_digest(str(path))

    def read() -> str:
        path.write_bytes(b"another")
        return digest

    assert watch.trouble(digest, read, clean=False) == (
        "changed-while-read",
        "the file changed while it was read",
    )


def test_a_file_that_is_gone_or_cannot_be_read_to_its_end_is_trouble(path: Path) -> None:
    watch, digest = FileWatch(str(path)), file_digest(str(path))

    def broken() -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert watch.trouble(digest, broken, clean=False) == (
        "unreadable-file",
        "cannot be read: Input/output error",
    )
    path.unlink()
    for clean in (True, False):
        found = watch.trouble(digest, broken, clean=clean)
        assert found is not None and found[0] == "missing-file"
    assert FileWatch(str(path)).stamp is None


def test_a_decoder_that_names_a_lost_mount_is_believed(path: Path) -> None:
    """The mount may be back by the time that the file is read again."""
    watch, digest = FileWatch(str(path)), file_digest(str(path))
    stale, unconnected = os.strerror(errno.ESTALE), os.strerror(errno.ENOTCONN)
    for detail in (f"3 errors in 9 frames; {stale}", unconnected):
        found = watch.trouble(digest, lambda: digest, clean=False, detail=detail)
        assert found is not None and found[0] == "unreadable-file"
    # FFmpeg says this of truncated files too: the file decides
    assert watch.trouble(digest, lambda: digest, clean=False, detail=os.strerror(errno.EIO)) is None


def test_a_mount_that_is_lost_between_two_packets_ends_the_decode(tmp_path: Path) -> None:
    """Else it would count as one damaged packet, and the first half would be stored as a shorter video."""
    from pipeline.decoding.decoders.pyav import PyAVFrames

    frames = PyAVFrames(write_video(tmp_path / "a.mp4", seconds=0.4))
    with pytest.raises(DecodeProblem, match="unreadable-file: cannot be read"):
        frames._note(OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    frames._note(OSError(errno.EIO, os.strerror(errno.EIO)))
    assert frames.n_errors == 1
    frames.close()


def test_errors_have_their_codes() -> None:
    assert reading_trouble(FileNotFoundError(errno.ENOENT, "no"))[0] == "missing-file"
    for number in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP):
        error = OSError(number, os.strerror(number))
        assert reading_trouble(error) == ("unreadable-file", f"cannot be read: {os.strerror(number)}")
        assert fault(error) == reading_trouble(error)
    assert fault(RuntimeError("a fault")) == ("decoder-crash", "RuntimeError: a fault")


@pytest.mark.parametrize("nanoseconds", [2**63, 2**63 + 1, -(2**63) - 1, 10**19, 2**63 - 1, -(2**63), 0, -1])
def test_every_time_has_a_stamp_of_its_own(nanoseconds: int) -> None:
    class Status:
        st_size, st_mtime_ns = 3, nanoseconds

    class Later:
        st_size, st_mtime_ns = 3, nanoseconds + 1

    size, time = stamp_of(Status())  # type: ignore[arg-type]
    assert size == 3 and -(2**63) <= time < 2**63
    assert (time == nanoseconds) == (not has_odd_time(Status()))  # type: ignore[arg-type]
    assert stamp_of(Later()) != (size, time)  # type: ignore[arg-type]
