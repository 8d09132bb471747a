"""The live inputs of a cache, by id, as a writer keeps them at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cache.schema import KnownInput, Reject, VideoRow
from cache.stores.layout import StoreReader


class _Columns:
    """Row number by id of one group's live rows, and the columns that tell whether a file changed."""

    def __init__(self, store: StoreReader, group: str, superseded: Sequence[int]) -> None:
        rows = store.n_rows(f"{group}/id")
        ids = store.read(f"{group}/id", 0, rows).tolist()
        self.digest: list[str] = store.read(f"{group}/digest", 0, rows).tolist()
        self.size_bytes: list[int] = store.read(f"{group}/size_bytes", 0, rows).tolist()
        self.mtime_ns: list[int] = store.read(f"{group}/mtime_ns", 0, rows).tolist()
        refused = group == "rejects"
        self.reason: list[str] = store.read("rejects/reason", 0, rows).tolist() if refused else []
        self.detail: list[str] = store.read("rejects/detail", 0, rows).tolist() if refused else []
        self.superseded = list(superseded)
        gone = set(superseded)
        self.rows: dict[str, int] = (
            {video_id: row for row, video_id in enumerate(ids) if row not in gone}
            if gone
            else dict(zip(ids, range(rows), strict=True))
        )

    def add(self, row: VideoRow | Reject) -> None:
        self.rows[row.id] = len(self.digest)
        self.digest.append(row.digest)
        self.size_bytes.append(row.size_bytes)
        self.mtime_ns.append(row.mtime_ns)
        if isinstance(row, Reject):
            self.reason.append(row.reason)
            self.detail.append(row.detail)

    def supersede(self, video_id: str) -> None:
        row = self.rows.pop(video_id, None)
        if row is not None:
            self.superseded.append(row)


class KnownInputs(Mapping[str, KnownInput]):
    """Live inputs by id: a view that follows the writer's commits. Entries are made when asked for."""

    def __init__(self, store: StoreReader) -> None:
        attributes = store.attributes
        self._videos = _Columns(store, "videos", attributes.superseded_videos)
        self._rejects = _Columns(store, "rejects", attributes.superseded_rejects)

    def __getitem__(self, video_id: str) -> KnownInput:
        row = self._videos.rows.get(video_id)
        if row is not None:
            found = self._videos
            return KnownInput(
                video_id, "stored", found.digest[row], found.size_bytes[row], found.mtime_ns[row]
            )
        found, row = self._rejects, self._rejects.rows[video_id]
        return KnownInput(
            video_id,
            "rejected",
            found.digest[row],
            found.size_bytes[row],
            found.mtime_ns[row],
            found.reason[row],
            found.detail[row],
        )

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._videos.rows or video_id in self._rejects.rows

    def __iter__(self) -> Iterator[str]:
        yield from self._videos.rows
        yield from self._rejects.rows

    def __len__(self) -> int:
        return len(self._videos.rows) + len(self._rejects.rows)

    @property
    def video_rows(self) -> Mapping[str, int]:
        """Row in `videos/` of each live stored id, in store order."""
        return self._videos.rows

    def superseded_after(self, ids: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Superseded rows of videos and of rejects once new rows for `ids` are committed."""
        videos = [self._videos.rows[name] for name in ids if name in self._videos.rows]
        rejects = [self._rejects.rows[name] for name in ids if name in self._rejects.rows]
        return (*self._videos.superseded, *videos), (*self._rejects.superseded, *rejects)

    def withdraw(self, ids: Sequence[str]) -> None:
        """Take over that these rejects are none any more."""
        for video_id in ids:
            self._rejects.supersede(video_id)

    def restamp(self, mtimes_ns: Mapping[int, int]) -> None:
        """Take over new times of change, by row of `videos/`."""
        for row, mtime_ns in mtimes_ns.items():
            self._videos.mtime_ns[row] = mtime_ns

    def update(self, stored: Sequence[VideoRow], rejected: Sequence[Reject]) -> None:
        """Take over a commit that succeeded."""
        for video_id in [*(video.id for video in stored), *(reject.id for reject in rejected)]:
            self._videos.supersede(video_id)
            self._rejects.supersede(video_id)
        for video in stored:
            self._videos.add(video)
        for reject in rejected:
            self._rejects.add(reject)
