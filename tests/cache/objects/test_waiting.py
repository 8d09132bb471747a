"""Lines while a store does not answer: the first after ten seconds, then whenever the time has doubled."""

from __future__ import annotations

import threading

import pytest

from cache.objects import waiting
from cache.objects.store import ObjectTrouble, open_objects
from cache.objects.waiting import Silence
from tests.objects import BUCKET, Server

URL = "s3://bucket"


class Clock:
    """Stands in for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(waiting, "time", found)
    return found


def test_a_long_silence_takes_few_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    silence = Silence(URL)
    for second in range(3600):
        clock.now = 1000.0 + second
        threads = [threading.Thread(target=silence.goes_on, args=("no answer", clock.now - 1)) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    silence.ended()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"waiting for {URL} for 10 s by now, 19 tries in vain: no answer"
    assert [line.split()[4] for line in said[:-1]] == [
        "10",
        "20",
        "40",
        "80",
        "160",
        "320",
        "640",
        "1280",
        "2560",
    ]
    assert said[-1] == f"{URL} answers again, after 3600 s"


def test_what_falters_all_day_takes_a_line_a_minute_at_most(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    silence = Silence(URL)
    for second in range(0, 600, 12):
        clock.now = 1000.0 + second
        silence.goes_on("no answer", clock.now - 11)
        silence.ended()
        silence.ended()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 20 and said[0].startswith(f"waiting for {URL} for 11 s by now, 1 try in vain")
    silence.goes_on("no answer", clock.now)  # a short one is none
    silence.ended()
    assert not capsys.readouterr().err


def test_a_store_says_that_it_is_waited_for(
    bucket: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("a", b"1")
    objects = open_objects(URL)
    bucket.faults["a"].extend(["503", "cut"])
    assert objects.read_all("a")[0] == b"1"
    assert not capsys.readouterr().err
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.0)
    objects = open_objects(URL)
    bucket.faults["a"].extend(["503", "503"])
    assert objects.read_all("a")[0] == b"1"
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"waiting for s3://{BUCKET} for 0 s by now, 1 try in vain: the store answered 503"
    )
    assert last.startswith(f"s3://{BUCKET} answers again, after 0 s")
    bucket.faults[""].append("503")
    assert [one.key for one in objects.list()] == ["a"]
    with pytest.raises(ObjectTrouble):
        objects.look("b")  # what is not there is an answer
    assert "waiting" not in capsys.readouterr().err  # within the minute
