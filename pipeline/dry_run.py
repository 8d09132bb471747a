"""`extract --dry-run`: the table of what would be rejected and why, without weights, features or a cache."""

from __future__ import annotations

import math
from collections import Counter

from rich.console import Console
from rich.table import Table

from cache.schema import REJECT_REASONS
from pipeline.config import ExtractConfig, labelled_sources, with_words
from pipeline.decoding.fetching import Fetcher
from pipeline.decoding.pool import DecodePool, PoolSettings
from pipeline.decoding.worker import Failed, Probed, Task, WorkerSettings
from pipeline.reporting.progress import ExtractProgress
from pipeline.reporting.report import ExtractReport
from pipeline.sources.tree import discover


def dry_run(
    config: ExtractConfig, *, console: Console, declared_seconds: dict[str, float] | None = None
) -> ExtractReport:
    """Probe every source. The report counts what opened as not reached: nothing is stored.

    declared_seconds: filled with the declared duration of each input that opened, by id.
    """
    plans = None if config.transcripts is None else [one.plan for one in config.backbones.settled()]
    sound = config.takes_sound_files(plans)
    tree = discover(config.src, sound=sound)
    resolved = labelled_sources(config, tree, console)
    if config.shard is not None:
        resolved = config.shard.share(resolved)
    if plans is not None:
        resolved = with_words(config, resolved, [source.id for source in tree.videos], plans, console)
    sources = resolved.sources
    report = ExtractReport(src=str(config.src), out="(dry run)", layout=tree.layout, found=len(sources))
    report.note_skipped(tree.skipped)
    report.note_transcripts(tree.root, sources)
    seconds: list[float] = []
    tasks = [
        (Task(number, str(source.path), "pyav", probe=True, sound=sound), source.remote)
        for number, source in enumerate(sources)
    ]
    pool_settings = PoolSettings(workers=config.pool.workers, deadline_seconds=config.pool.deadline_seconds)
    with (
        DecodePool(
            pool_settings, worker_settings=WorkerSettings((), max_error_share=config.max_error_share)
        ) as pool,
        Fetcher(config.fetch, workers=config.pool.workers) as fetcher,
        ExtractProgress(len(tasks), console=console) as progress,
    ):
        for event in map(fetcher.told, pool.run(fetcher.tasks(tasks))):
            if isinstance(event, Probed):
                report.not_reached += 1
                seconds.append(event.declared.duration_seconds)
                if declared_seconds is not None:
                    declared_seconds[sources[event.number].id] = event.declared.duration_seconds
            elif isinstance(event, Failed):
                report.rejects[sources[event.number].id] = (event.reason, event.detail)
                report.rejected_now += 1
            progress.video(rejected=isinstance(event, Failed))
    _print(report, math.fsum(seconds), console)  # the same in whatever order the probes end
    return report


def _print(report: ExtractReport, seconds: float, console: Console) -> None:
    if report.rejects:
        table = Table(
            title="would be rejected (quick probe; the decode has the last word)", title_justify="left"
        )
        for column in ("input", "reason", "detail"):
            table.add_column(column, overflow="fold")
        for video_id, (reason, detail) in sorted(report.rejects.items()):
            table.add_row(video_id, reason, detail[:200])
        console.print(table)
        counts = Counter(reason for reason, _ in report.rejects.values())
        for reason, count in counts.most_common():
            console.print(f"{count:>6}  {reason}: {REJECT_REASONS[reason]}", highlight=False)
    console.print(
        f"found {report.found} = {report.not_reached} readable ({seconds:.0f} s declared) + {report.rejected} would be "
        f"rejected; nothing was extracted",
        highlight=False,
    )
