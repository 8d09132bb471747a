from __future__ import annotations

from pathlib import Path

from cache.known import KnownInputs
from cache.stores.zarr_read import ZarrReader
from tests.cache.builders import make_reject, make_video, write_cache


def test_known_inputs_follow_commits(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", [make_video("a"), make_video("b")], [make_reject("r")])
    known = KnownInputs(ZarrReader(path))
    assert known.superseded_after(["b", "r", "new"]) == ((1,), (0,))
    known.update([make_video("b", version=1).row, make_video("r").row], [make_reject("a", "deadline")])
    assert list(known) == ["b", "r", "a"]
    assert dict(known.video_rows) == {"b": 2, "r": 3}
    assert known["a"].reason == "deadline"
    assert known["b"].digest == make_video("b", version=1).row.digest
    assert known.superseded_after(["r"]) == ((1, 0, 3), (0,))
    assert len(known) == 3
    assert 7 not in known
