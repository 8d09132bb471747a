"""One pass over the work: events of the decode pool to the runners, whole videos to the writer, a commit now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from cache.errors import DeviceError, InputError, StorageFull
from cache.kept_text import KeptWords, append_words
from cache.schema import KnownInput, Reject, TokenDtype, VideoFeatures, is_passing
from cache.writer import CacheWriter
from pipeline.assembly import Assembler
from pipeline.backbones.base import Backbone
from pipeline.backbones.busy import BusyTime
from pipeline.backbones.launch import pin_memory
from pipeline.backbones.spread import SpreadRunner, make_runner
from pipeline.backbones.text import TextBackbone, tokens_of
from pipeline.counts import FlowCounts
from pipeline.decoding.decoders.base import DecoderName
from pipeline.decoding.fetching import Fetcher, FetchSettings, Wanted
from pipeline.decoding.pool import DecodePool, Event, PoolSettings, TokenFrames
from pipeline.decoding.worker import SHORT_SHARE, Failed, Finished, Restarted, Task, Unchanged, WorkerSettings
from pipeline.reporting.progress import ExtractProgress
from pipeline.sources.inventory import Input


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """How to decode, what to refuse, how often to commit; see the flags of `extract` for each."""

    dtype: TokenDtype
    decoder: DecoderName
    pool: PoolSettings
    max_error_share: float
    min_seconds: float
    reject_duplicates: bool
    commit_videos: int
    commit_seconds: float
    optional: tuple[str, ...] = ()
    lacks_all: bool = False
    keep_text: Path | None = None
    """The cache beside which the words that were read are kept."""
    fetch: FetchSettings = field(default_factory=FetchSettings)


class Flow:
    """Extracts a list of inputs into a writer. `digests`: contents already stored, digest to id."""

    def __init__(
        self,
        settings: FlowSettings,
        backbones: Mapping[str, Backbone],
        *,
        writer: CacheWriter,
        device: torch.device,
        digests: dict[str, str],
    ) -> None:
        self._settings, self._writer, self._digests = settings, writer, digests
        self._names = tuple(backbones)
        self._plans = tuple(backbone.plan for backbone in backbones.values())
        self._models = BusyTime()
        self._pin = partial(pin_memory, device=device) if device.type == "cuda" else None
        self._runners = {
            name: make_runner(backbone, device=device, clocks=(self._models,))
            for name, backbone in backbones.items()
        }
        self._readers = {name: one for name, one in backbones.items() if isinstance(one, TextBackbone)}
        self._kept_words: list[KeptWords] = []
        self._assembler = Assembler(backbones, dtype=settings.dtype, optional=settings.optional)
        self._stored: list[VideoFeatures] = []
        self._rejected: list[Reject] = []
        self._stamps: dict[str, int] = {}
        self._replaced: set[str] = set()
        self._last_commit = time.monotonic()

    def run(self, work: Sequence[Input], *, console: Console, stop: threading.Event) -> FlowCounts:
        """Extract `work`, or, once `stop` is set, commit what is whole and count the rest as not reached."""
        counts = self._counts = FlowCounts()
        self._replaced = {item.source.id for item in work if item.known_digest}
        began = time.perf_counter()
        limits = WorkerSettings(
            self._plans,
            max_error_share=self._settings.max_error_share,
            min_seconds=self._settings.min_seconds,
            optional=self._settings.optional,
            lacks_all=self._settings.lacks_all,
        )
        fetcher = Fetcher(self._settings.fetch, workers=self._settings.pool.workers)
        try:
            with (
                DecodePool(self._settings.pool, worker_settings=limits, pin=self._pin) as pool,
                fetcher,
                ExtractProgress(len(work), console=console) as self._progress,
            ):
                if pool.note:
                    console.print(f"note: {pool.note}", highlight=False, markup=False)
                for event in pool.run(fetcher.tasks(self._tasks(work, stop)), stop=stop):
                    counts.start_seconds = counts.start_seconds or time.perf_counter() - began
                    self._take(fetcher.told(event))
                    self._gather()
                    self._commit_if_due()
                if not stop.is_set():
                    for runner in self._runners.values():
                        runner.flush()
                    self._gather()
                    assert not len(self._assembler), "a video was decoded but never completed"
                self._commit()
                counts.worker_restarts = pool.restarts
        except (DeviceError, StorageFull, InputError) as error:
            if isinstance(error, DeviceError) or error is fetcher.broken:
                self._commit()
            raise
        finally:
            for runner in self._runners.values():
                runner.close()
        counts.model_seconds = self._models.seconds
        counts.idle_seconds = max(
            0.0, time.perf_counter() - began - counts.start_seconds - self._models.seconds
        )
        counts.not_reached = len(work) - counts.ended
        for runner in self._runners.values():
            if isinstance(runner, SpreadRunner):
                for on, tokens in runner.n_tokens.items():
                    counts.device_tokens[on] = counts.device_tokens.get(on, 0) + tokens
        counts.embed_seconds = {name: runner.busy.seconds for name, runner in self._runners.items()}
        return counts

    def _tasks(self, work: Sequence[Input], stop: threading.Event) -> Iterator[Wanted]:
        for number, item in enumerate(work):
            if stop.is_set():
                return
            self._assembler.start(number, item)
            source = item.source
            task = Task(
                number,
                str(source.path),
                self._settings.decoder,
                item.known_digest,
                transcript=source.transcript,
            )
            yield task, source.remote

    def _take(self, event: Event) -> None:
        if isinstance(event, TokenFrames):
            runner = self._runners[self._names[event.stream]]
            event.read = runner.add(event.number, event.attempt, event.first, event.frames)
            self._progress.tokens(len(event.frames))
        elif isinstance(event, Restarted):
            self._counts.fallbacks[self._assembler.id(event.number)] = event.why
            self._assembler.restart(event.number)
        elif isinstance(event, Finished):
            self._read(event)
        elif isinstance(event, Unchanged):
            item = self._assembler.unchanged(event.number)
            if event.stamp is not None:
                self._stamps[item.source.id] = event.stamp[1]
            self._counts.unchanged += 1
            self._progress.video(rejected=False)
        elif isinstance(event, Failed):
            self._refuse(self._assembler.failed(event))
        else:
            raise AssertionError(f"an extraction task was answered by {event}")

    def _read(self, event: Finished) -> None:
        """A video is decoded: its words, which came with it, become tokens."""
        video, read = tokens_of(event.video, self._readers)
        if len(video.absent) == len(self._plans) and not self._settings.lacks_all:
            name, why = next(iter(video.absent.items()))  # what was read is no word to any tokenizer
            told = f"{name}: {why}; no other stream was asked for"
            failed = Failed(event.number, "missing-stream", told, event.digest, stamp=event.stamp)
            self._refuse(self._assembler.failed(failed))
            return
        attempt = self._assembler.attempt(event.number)
        self._assembler.finished(
            replace(event, video=video), {name: tokens.spans for name, tokens in read.items()}
        )
        for name, tokens in read.items():
            self._runners[name].add(event.number, attempt, 0, tokens.rows)

    def _gather(self) -> None:
        """Hand features over; take every video that is whole by now."""
        for name, runner in self._runners.items():
            for (number, attempt, index), vector in runner.results():
                self._assembler.token(number, attempt, name, index, vector)
        for message, whole in self._assembler.complete():
            self._counts.decode_seconds += message.decode_seconds
            self._counts.decode_wait_seconds += message.wait_seconds
            if isinstance(whole, Reject):
                self._refuse(whole)
            else:
                self._keep(whole, message)

    def _keep(self, features: VideoFeatures, message: Finished) -> None:
        row, counts, decoded = features.row, self._counts, message.video
        twin = self._digests.setdefault(row.digest, row.id)
        if twin != row.id:
            counts.duplicates[row.id] = f"same bytes as {twin}"
            if self._settings.reject_duplicates:
                detail = f"same bytes as {twin}"
                self._refuse(
                    Reject(row.id, "duplicate-content", detail, row.digest, row.size_bytes, row.mtime_ns)
                )
                return
        self._stored.append(features)
        if self._settings.keep_text is not None:
            for name, words in decoded.words.items():
                cues = tuple((cue.start_seconds, cue.end_seconds, cue.text) for cue in words.cues)
                self._kept_words.append(KeptWords(row.id, row.digest, name, words.came_from, cues))
        counts.stored_now += 1
        counts.replaced += row.id in self._replaced
        counts.video_seconds += row.duration_seconds
        counts.decoders[row.decoder] = counts.decoders.get(row.decoder, 0) + 1
        for name, why in features.absent.items():
            counts.absent[f"{name}: {why.partition(':')[0]}"] = (
                counts.absent.get(f"{name}: {why.partition(':')[0]}", 0) + 1
            )
        for name, tokens in features.tokens.items():
            counts.tokens[name] = counts.tokens.get(name, 0) + len(tokens.values)
        if row.duration_seconds < SHORT_SHARE * decoded.declared_seconds:
            counts.shortened[row.id] = (
                f"{row.duration_seconds:.2f} s of {decoded.declared_seconds:.2f} s declared"
            )
        if decoded.notes:
            counts.notes[row.id] = "; ".join(decoded.notes)
        if decoded.n_errors:
            counts.damaged[row.id] = f"{decoded.n_errors} errors in {decoded.n_frames} frames"
        self._progress.video(rejected=False)

    def _refuse(self, refused: Reject) -> None:
        """A reject for the cache; passing trouble neither takes the place of features nor is it written down twice."""
        known = self._writer.known().get(refused.id)
        passing = is_passing(refused.reason, refused.digest)
        if passing and known is not None and known.state == "stored":
            self._counts.kept[refused.id] = f"{refused.reason}: {refused.detail}"
            self._progress.video(rejected=False)
            return
        if known is None or not _on_record(refused, known):
            self._rejected.append(refused)
        self._counts.rejected_now += 1
        self._progress.video(rejected=True)

    def _commit_if_due(self) -> None:
        count = len(self._stored) + len(self._rejected) + len(self._stamps)
        late = time.monotonic() - self._last_commit >= self._settings.commit_seconds
        if count >= self._settings.commit_videos or (count and late):
            self._commit()

    def _commit(self) -> None:
        began = time.perf_counter()
        if self._kept_words and self._settings.keep_text is not None:
            self._writer.require_own()
            append_words(self._settings.keep_text, self._kept_words)
            self._kept_words = []
        if self._stored or self._rejected:
            self._writer.commit(self._stored, self._rejected)
            self._stored, self._rejected = [], []
        if self._stamps:
            self._writer.restamp(self._stamps)
            self._stamps = {}
        self._last_commit = time.monotonic()
        self._counts.write_seconds += time.perf_counter() - began


def _on_record(refused: Reject, known: KnownInput) -> bool:
    return all(
        getattr(refused, name) == getattr(known, name)
        for name in ("reason", "detail", "digest", "size_bytes", "mtime_ns")
    )
