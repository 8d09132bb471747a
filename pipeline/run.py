"""Stage 1 in one screen: sources, inventory, decode once, two backbones, one writer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import FrameType

from rich.console import Console

from cache.errors import FingerprintMismatch, InputError
from cache.fingerprint import require_same, weights_name
from cache.kept_text import kept_text_path, read_words
from cache.lock import CacheLock, lock_path, locked, note_path
from cache.merge import SHARD, shard_provenance
from cache.objects.address import remote_url
from cache.objects.mirror import Mirror
from cache.process.interrupts import handling
from cache.reader import Cache, open_cache
from cache.schema import UNKNOWN_LABEL
from cache.stores.compatible import require_same_names, require_same_optional
from cache.stores.open import cache_exists
from cache.writer import CacheWriter
from pipeline.add_stream import add_stream, missing_streams, remove_sidecar, require_same_streams
from pipeline.backbones.base import Backbone
from pipeline.backbones.kind import kind_named
from pipeline.backbones.load import load_backbones
from pipeline.config import (
    TRIED,
    ExtractConfig,
    fingerprints_at,
    full_fingerprint,
    labelled_sources,
    make_flow,
    open_writer,
    precisions,
    require_as_settled,
    stream_specs,
    with_words,
)
from pipeline.decoding.decoders.base import DECODING_RULES
from pipeline.decoding.words import NO_TRANSCRIPT
from pipeline.redo import affected_videos, reasons, require_present_rules, rules_of
from pipeline.reporting.profile import profile_lines
from pipeline.reporting.report import ExtractReport
from pipeline.sources.inventory import Inventory, take_inventory
from pipeline.sources.labelled import ResolvedSources
from pipeline.sources.read_transcripts import changed_since, note_transcripts
from pipeline.sources.tree import discover
from pipeline.sources.twins import firsts_and_twins, stored_contents

MEASURED_IN_BF16 = ("ViT-B-32", "slowfast_r50")
"""Networks that were measured far within the parity bound in bf16 (docs/sampling.md): those of the caches of version 0.1.0."""


def extract(
    config: ExtractConfig, *, console: Console, backbones: Mapping[str, Backbone] | None = None
) -> ExtractReport:
    """Run stage 1. Raises an OnepassError for what a user can mend; returns the report otherwise (also after Ctrl-C).

    backbones: those of `config`, where they are loaded already. An `out` in object storage is a local working copy of which
    committed states are published, at most every `publish_seconds` and at the end.
    """
    url = remote_url(config.out)
    if url is None:
        with locked(config.out) as lock:
            return _extract(config, lock, console=console, backbones=backbones)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    with Mirror.open(url, say=say, every_seconds=config.publish_seconds) as mirror:
        local = replace(config, out=mirror.path)
        with locked(local.out) as lock:
            report = _extract(
                local, lock, console=console, backbones=backbones, after_change=mirror.publish_if_due
            )
    report.out = mirror.bucket.url
    return report


def _extract(
    config: ExtractConfig,
    lock: CacheLock,
    *,
    console: Console,
    backbones: Mapping[str, Backbone] | None,
    after_change: Callable[[], object] | None = None,
) -> ExtractReport:
    began = time.perf_counter()
    plans = None if backbones is None else [backbone.plan for backbone in backbones.values()]
    tree = discover(config.src, sound=config.takes_sound_files(plans))
    tree = tree.without(*(path(config.out.resolve()) for path in (lock_path, note_path)))
    resolved = labelled_sources(config, tree, console)
    report = ExtractReport(src=str(config.src), out=str(config.out), layout=tree.layout)
    if config.shard is not None:
        resolved = config.shard.share(resolved)
        share = f"shard {config.shard}: {len(resolved.sources)} of {len(tree.sources)} inputs"
        console.print(share, highlight=False, markup=False)
    report.found = len(resolved.sources)
    report.note_skipped(tree.skipped)
    with stop_on_signal() as stop:
        if not config.redo:
            require_present_rules(config.out)
        missing = missing_streams(config.out, config.backbones.names)
        resolved = _as_stored(config, resolved)
        redo = _to_redo(config, resolved, missing, console)
        if plans is None and (config.transcripts is not None or config.keep_text):
            plans = [settled.plan for settled in config.backbones.settled()]
        join_words = partial(with_words, config, resolved, [source.id for source in tree.videos])
        if plans is not None:
            resolved = join_words(plans, console)
        if backbones is None:
            say = partial(console.print, highlight=False, markup=False)
            made = fingerprints_at(config.out)
            agree = partial(require_as_settled, made, config.out)
            backbones = load_backbones(config.backbones, made=precisions(made), say=say, agree=agree)
        describe(backbones, config, report, console)
        if plans is None:
            resolved = join_words([backbone.plan for backbone in backbones.values()], console)
        report.note_transcripts(tree.root, resolved.sources)
        report.setup_seconds = time.perf_counter() - began
        redo = (*redo, *_heard_of_since(config, resolved, redo, console))
        if line := _words_not_kept(config, backbones, redo):
            console.print(line, highlight=False, markup=False)
        if missing:
            require_same_streams(
                config.out, stream_specs(config, backbones), ignore_libraries=config.ignore_libraries
            )
        if any(backbones[name].plan.words for name in missing):
            note_transcripts(config.out, resolved.sources)
        for name in missing:
            added = add_stream(name, config, resolved, backbones, console=console, stop=stop, held=lock)
            report.added_streams[name] = added.counts.stored_now
            report.tokens |= added.counts.tokens
            report.absent |= added.counts.absent
            if not added.attached:
                if added.lacking:
                    report.waiting[name] = added.lacking
                _recall_counts(config, report, {source.id for source in resolved.sources})
                break
        else:
            rules = rules_of(config.out)
            with open_writer(config, config.out, backbones, resolved, rules=rules, held=lock) as writer:
                writer.after_change = after_change
                before = {video_id: writer.known().video_rows[video_id] for video_id in redo}
                fill_cache(
                    writer, config, resolved, backbones, report=report, console=console, stop=stop, redo=redo
                )
                report.setup_seconds += report.start_seconds
                rows = writer.known().video_rows
                report.not_redone = sum(rows.get(video_id) == row for video_id, row in before.items())
                report.redone = len(redo) - report.not_redone
                whole = not report.not_redone and not stop.is_set()
                if config.redo and rules < DECODING_RULES and whole:
                    writer.adopt_fingerprints({name: full_fingerprint(b) for name, b in backbones.items()})
                    console.print(f"the cache is by decoding rules {DECODING_RULES} now", highlight=False)
            for name in backbones:
                remove_sidecar(config.out, name)
        recall_rejects(config, report, {source.id for source in resolved.sources})
    report.interrupted = stop.is_set()
    report.seconds = time.perf_counter() - began
    if config.profile and report.stored_now:
        report.profile = profile_lines(
            report,
            backbones,
            devices=config.backbones.torch_devices(),
            workers=config.pool.workers,
        )
    return report


def _as_stored(config: ExtractConfig, resolved: ResolvedSources) -> ResolvedSources:
    """The sources with the class names as the cache spells them, if there is one and it can be continued with them.

    What is known without models is asked here, before they are loaded. Raises InputError, CacheError.
    """
    if not cache_exists(config.out):
        return resolved
    with open_cache(config.out) as cache:
        _require_same_share(cache, config)
        resolved = resolved.spelt_as(cache.label_names)
        names = (resolved.names.negative, resolved.names.positive) if resolved.names else None
        require_same_names(names, cache.label_names, where=config.out)
        for choice in config.backbones.streams:
            if (stored := cache.streams.get(name := choice.name)) is None:
                continue
            asked = choice.precision or config.backbones.precision
            if asked != "auto" and kind_named(choice.kind).has_weights:
                made = {key: stored.fingerprint.get(key) for key in ("stream", "precision")}
                require_same({**made, "precision": asked}, made, where=str(config.out))
            if name in (*config.optional, *config.required):
                require_same_optional(name, name in config.optional, stored.optional, where=config.out)
            if config.dtype != stored.dtype:
                raise FingerprintMismatch(
                    f"stream {name} is {config.dtype} in this run but {stored.dtype} in {config.out}: give --dtype "
                    f"{stored.dtype}, or another --out"
                )
    return resolved


def _heard_of_since(
    config: ExtractConfig, resolved: ResolvedSources, redo: Collection[str], console: Console
) -> tuple[str, ...]:
    """Ids of stored videos that had no transcript, or another one, when they were stored, to extract again."""
    given = {source.id for source in resolved.sources if source.transcript is not None} - set(redo)
    if not given or not cache_exists(config.out):
        return ()
    with open_cache(config.out) as cache:
        lacking: set[str] = set()
        for name in set(cache.streams) & set(config.backbones.names):
            bare = cache.absent(name) == NO_TRANSCRIPT
            lacking |= set(map(str, cache.videos.id[bare]))
        stored = set(map(str, cache.videos.id))
    changed = changed_since(config.out, resolved.sources) & stored & (given - lacking)
    for found, what in (
        (lacking & given, "no transcript and have one by now"),
        (changed, "other words in their transcripts"),
    ):
        if found:
            console.print(f"{len(found)} stored videos had {what}: they are extracted again", highlight=False)
    return tuple(sorted((lacking & given) | changed))


def _words_not_kept(config: ExtractConfig, backbones: Mapping[str, Backbone], redo: Collection[str]) -> str:
    """What the words that are kept beside the cache will not be: those of all videos in it. Raises CacheError."""
    readers = [name for name, backbone in backbones.items() if backbone.plan.words is not None]
    if not readers or not cache_exists(config.out):
        return ""
    kept = {(one.id, one.stream) for one in read_words(config.out)}
    if not config.keep_text:
        if not kept:
            return ""
        return f"words: {kept_text_path(config.out)} is of earlier runs; what this one reads is not kept without --keep-text"
    with open_cache(config.out) as cache:
        read = {
            (str(i), name)
            for name in cache.streams
            if name in readers
            for i in cache.videos.id[cache.absent(name) == ""]
        }
    n_lost = len({video_id for video_id, _ in read - kept} - set(redo))
    return (
        f"warning: --keep-text: the words of {n_lost} stored videos were read without it and are not kept; --redo all "
        "reads them again"
        if n_lost
        else ""
    )


def _to_redo(
    config: ExtractConfig, resolved: ResolvedSources, missing: tuple[str, ...], console: Console
) -> tuple[str, ...]:
    """Ids of stored videos to extract again. Raises InputError where `--redo` cannot be done."""
    if not config.redo:
        return ()
    if not cache_exists(config.out):
        raise InputError(f"--redo {config.redo}: there is no cache at {config.out} yet")
    if missing:
        raise InputError(
            f"--redo {config.redo} with new streams ({', '.join(missing)}): bring the cache up to date with its own streams "
            "first, then add them"
        )
    paths = {source.id: source.path for source in resolved.sources}
    if config.redo == "affected" and any(source.remote for source in resolved.sources):
        raise InputError(
            "--redo affected looks into the files, which lie in object storage: --redo all extracts all again"
        )
    with open_cache(config.out) as cache:
        stored = [str(video_id) for video_id in cache.videos.id]
        gone = [video_id for video_id in stored if video_id not in paths]
        if gone:
            raise InputError(
                f"--redo {config.redo}: {len(gone)} stored videos are not in {config.src}, such as {gone[0]}; "
                "give the source that holds them all"
            )
        if config.redo == "all":
            return tuple(stored)
        affected = affected_videos(cache, paths)
        console.print(f"{len(affected)} of {len(stored)} stored videos are affected", highlight=False)
        for line in reasons(affected):
            console.print(line, highlight=False, markup=False)
        return tuple(affected)


def fill_cache(
    writer: CacheWriter,
    config: ExtractConfig,
    resolved: ResolvedSources,
    backbones: Mapping[str, Backbone],
    *,
    report: ExtractReport,
    console: Console,
    stop: threading.Event,
    redo: Collection[str] = (),
) -> None:
    """Bring the cache up to date with the sources, extracting `redo` again; fills in `report`."""
    known = writer.known()
    # other decoding rules may give another verdict, so a redo tries rejects again
    retry = config.retry_rejects or bool(config.redo)
    inventory = take_inventory(resolved.sources, resolved.labels, known, retry_rejects=retry, redo=redo)
    report.stored_before, report.rejected_before = len(inventory.stored), len(inventory.rejected)
    report.gone = len(inventory.gone)
    for line in inventory.lines():
        console.print(line, highlight=False, markup=False)
    if inventory.work:
        _describe_shard(writer, config, resolved, finished=False)
    _relabel(writer, inventory, resolved, report)
    writer.withdraw(inventory.listed)
    if not inventory.work:
        console.print("nothing new to extract", highlight=False)
    else:
        digests = stored_contents(known, inventory.work)
        rounds = firsts_and_twins(inventory.work) if config.duplicates == "reject" else (inventory.work,)
        for work in filter(None, rounds):
            flow = make_flow(config, backbones, writer=writer, digests=digests)
            note_transcripts(writer.path, [item.source for item in work])
            report.add(flow.run(work, console=console, stop=stop))
    _describe_shard(writer, config, resolved, finished=not report.not_reached)


def _require_same_share(cache: Cache, config: ExtractConfig) -> None:
    """Raise InputError where the cache holds another share of the source than this run is for."""
    if not len(cache) and not len(cache.rejects):
        return
    held, shard = cache.provenance.get(SHARD), config.shard
    mine = (shard.index, shard.of, shard.plan) if shard is not None else None
    theirs = (held["index"], held["of"], held["plan"]) if held else None
    if mine != theirs:
        what = f"shard {held['index']}/{held['of']}" if held else "a source that was not divided"
        plan = " by another plan" if held and mine and mine[:2] == theirs[:2] else ""  # type: ignore[index]
        raise InputError(f"{config.out} holds {what}{plan}: give each shard an --out of its own")


def _describe_shard(
    writer: CacheWriter, config: ExtractConfig, resolved: ResolvedSources, *, finished: bool
) -> None:
    """A part says which share it is and whether all of it has ended, for `onepass merge`."""
    if (shard := config.shard) is not None:
        found = len(resolved.sources)
        writer.describe(
            shard_provenance(shard.index, shard.of, plan=shard.plan, found=found, finished=finished)
        )


def _relabel(
    writer: CacheWriter, inventory: Inventory, resolved: ResolvedSources, report: ExtractReport
) -> None:
    """Labels are data: join them again for videos that are stored already."""
    rows = writer.known().video_rows
    held = [*inventory.stored, *(item.source.id for item in inventory.work if item.source.id in rows)]
    known = {video_id: resolved.labels[video_id] for video_id in held if video_id in resolved.labels}
    known = {video_id: label for video_id, label in known.items() if label.label != UNKNOWN_LABEL}
    if known:
        report.relabelled = writer.relabel(known)


def recall_rejects(config: ExtractConfig, report: ExtractReport, ids: set[str]) -> None:
    """Fill in the rejects on record for the inputs of this source, from this run and from earlier ones."""
    with open_cache(config.out) as cache:
        rejects = cache.rejects
        for video_id, reason, detail in zip(rejects.id, rejects.reason, rejects.detail, strict=True):
            if video_id in ids:
                report.rejects[str(video_id)] = (str(reason), str(detail))


def _recall_counts(config: ExtractConfig, report: ExtractReport, ids: set[str]) -> None:
    """Where nothing new was looked at: how the inputs of this source stand in the cache."""
    with open_cache(config.out) as cache:
        report.stored_before = sum(str(video_id) in ids for video_id in cache.videos.id)
        report.rejected_before = sum(str(video_id) in ids for video_id in cache.rejects.id)
    report.not_reached = report.found - report.stored - report.rejected


def describe(
    backbones: Mapping[str, Backbone], config: ExtractConfig, report: ExtractReport, console: Console
) -> None:
    """Say which weights, device and precision the features come from."""
    prints = {name: backbone.fingerprint() for name, backbone in backbones.items()}
    report.weights = {name: weights_name(fields) for name, fields in prints.items()}
    report.device = ", ".join(map(str, config.backbones.torch_devices()))
    report.precision = _precisions(prints)
    for name, fields in prints.items():
        console.print(
            f"stream {name}: {fields['model']}, weights {report.weights[name]}, {fields['precision']} on {report.device}, "
            f"{backbones[name].batching}",
            highlight=False,
            markup=False,
        )
    notes = [*(backbone.note for backbone in backbones.values()), _untried(config, backbones)]
    report.note = " ".join(filter(None, notes))
    if report.note:
        console.print(f"note: {report.note}", highlight=False, markup=False)


def _untried(config: ExtractConfig, backbones: Mapping[str, Backbone]) -> str:
    """Which streams go on in less than float32 though neither a trial nor a measurement says that they may."""
    if not cache_exists(config.out):
        return ""
    with open_cache(config.out) as cache:
        names = [n for n in config.left_to_auto(backbones) if n in cache.streams]
        names = [n for n in names if n not in cache.provenance.get(TRIED, ())]
    names = [n for n in names if backbones[n].fingerprint().get("model") not in MEASURED_IN_BF16]
    if not names:
        return ""
    made = backbones[names[0]].fingerprint()["precision"]
    return (
        f"{', '.join(names)}: begun in {made} without a trial of whether that keeps the parity bound, and continued so: onepass "
        f"verify tells whether it does, and --precision {made} says that it is meant."
    )


def _precisions(prints: Mapping[str, Mapping[str, object]]) -> str:
    """What the features were made in, by stream where they differ."""
    of = {name: str(fields["precision"]) for name, fields in prints.items()}
    alike = set(of.values())
    return (
        alike.pop() if len(alike) == 1 else ", ".join(f"{name} {precision}" for name, precision in of.items())
    )


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or SIGHUP sets; a second Ctrl-C or SIGTERM stops at once."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            if number == signal.SIGHUP:
                return  # a shell and the kernel both hang up: one event
            raise KeyboardInterrupt
        stop.set()
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping: committing what is whole (once more to stop at once)\n")

    with handling(handle):
        yield stop
