"""The `onepass verify` command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import CacheCorrupt, InputError, ParityError

if TYPE_CHECKING:
    from rich.console import Console

    from cache.reader import Cache
    from pipeline.sources.tree import Source
    from pipeline.verify import Comparison


def verify_command(
    cache: Annotated[Path, typer.Argument(help="The cache to check.")],
    src: Annotated[
        Path | None,
        typer.Option(
            help="Where the videos lie; not needed where all features were made elsewhere.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[int, typer.Option(help="Videos to extract again, plainly.")] = 5,
    decoders: Annotated[
        bool,
        typer.Option("--decoders", help="Only name videos that older decoding rules may have got wrong."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the choice of videos.")] = 0,
    transcripts: Annotated[
        Path | None, typer.Option(help="Words of the videos, as extract was given them.", show_default=False)
    ] = None,
    weights_file: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=FILE", help="Where weights that came from a file lie (repeatable)."),
    ] = None,
    clip_weights: Annotated[str | None, typer.Option(help="Short for --weights-file clip=FILE.")] = None,
    slowfast_weights: Annotated[
        str | None, typer.Option(help="Short for --weights-file slowfast=FILE.")
    ] = None,
) -> None:
    """Check the whole cache for structure and finiteness, and N videos against the backbones run plainly.

    Features made elsewhere cannot be repeated: of these it checks all but that, and says so.
    """
    from dataclasses import replace

    import numpy as np

    from cache.check import check_cache
    from cache.lock import note_writers
    from cache.process.terminal import make_console
    from cache.reader import open_cache
    from pipeline.backbones.load import config_from_fingerprints, load_backbones, weights_files
    from pipeline.decoding.decoders.base import DecodeProblem
    from pipeline.decoding.pictures import quiet_decoders
    from pipeline.sources.transcripts import with_transcripts
    from pipeline.verify import check_weights, compare_video, stream_centres, verdicts

    console = make_console()
    if sample < 1:
        raise InputError(f"--sample {sample}: at least one video")
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative")
    quiet_decoders()
    note_writers(cache)
    if decoders:
        _name_affected(cache, _required(src), console)
        return
    with open_cache(cache) as opened:
        paths = {} if src is None else _paths(src, opened)
        problems = check_cache(opened)
        for problem in problems[:20]:
            console.print(f"problem: {problem}")
        if problems:
            raise CacheCorrupt(
                f"{cache}: {len(problems)} problems of structure or contents, listed above; extract it again"
            )
        console.print(
            f"structure: {len(opened)} videos, {len(opened.rejects)} rejects, all values finite, none constant"
        )
        if not len(opened):
            raise InputError(f"{cache}: holds no videos to verify; extract some first")
        fingerprints = _repeatable(opened, console)
        if not fingerprints:
            console.print("nothing was repeated: no stream of this cache was made by a kind that is here")
            return
        _required(src)
        files = weights_files(weights_file or [], clip=clip_weights, slowfast=slowfast_weights)
        config = config_from_fingerprints(fingerprints, device="cpu", files=files)
        # only the plain models are run, so what made the cache need not be here
        plain = tuple(replace(choice, precision="", runtime="") for choice in config.streams)
        backbones = load_backbones(replace(config, streams=plain, precision="fp32", runtime="torch"))
        check_weights(opened, backbones)
        words = {}
        if any(one.plan.words is not None and one.plan.words.track is None for one in backbones.values()):
            read, _ = with_transcripts(_sources(_required(src), opened), list(paths), transcripts)
            words = {source.id: source.transcript for source in read}
        rng = np.random.default_rng(seed)
        centres = stream_centres(opened)
        chosen = np.sort(rng.choice(len(opened), min(sample, len(opened)), replace=False))
        comparisons: list[Comparison] = []
        failures: list[str] = []
        misplaced: list[str] = []
        n_alone = 0
        for index in chosen:
            video_id = str(opened.videos.id[index])
            if video_id not in paths:
                failures.append(f"{video_id}: not in {src}")
                continue
            try:
                verified = compare_video(
                    opened,
                    int(index),
                    paths[video_id],
                    backbones,
                    rng=rng,
                    centres=centres,
                    transcript=words.get(video_id),
                )
            except DecodeProblem as problem:
                failures.append(f"{video_id}: {problem}")
                continue
            found = verified.comparisons
            misplaced += [f"{video_id}: {text}" for text in verified.misplaced]
            comparisons += found
            worst = ", ".join(_worst(name, [c for c in found if c.stream == name]) for name in backbones)
            n_alone += verified.has_frames and not verified.confirmed_by
            how = f"frames confirmed by {verified.confirmed_by}" if verified.confirmed_by else verified.note
            console.print(f"{video_id}: {worst}; {how}", markup=False)
        if len(failures) == len(chosen):
            for failure in failures:
                console.print(f"could not be compared: {failure}", markup=False)
            raise ParityError(
                f"{cache}: none of the {len(chosen)} videos that were looked at could be compared, so nothing is said of its "
                "features (see above): check that --src is the source of this cache"
            )
        if n_alone:
            console.print(
                f"{n_alone} of {len(chosen)} videos: frames confirmed by no other decoder, see above"
            )
        results = [verdict for verdict in verdicts(opened, comparisons) if verdict.stream in backbones]
        for verdict in results:
            console.print(str(verdict), markup=False)
        for name in sorted(set(backbones) - {verdict.stream for verdict in results}):
            console.print(f"stream {name}: absent from all videos that were looked at", markup=False)
    for text in misplaced:
        console.print(f"misplaced: {text}", markup=False)
    for failure in failures:
        console.print(f"could not be compared: {failure}", markup=False)
    if failures or misplaced or not all(verdict.ok for verdict in results):
        coarse = any(not verdict.ok and verdict.precision != "fp32" for verdict in results)
        raise ParityError(
            f"{cache}: {sum(not v.ok for v in results)} of {len(results)} streams below the bound, {len(failures)} of "
            f"{len(chosen)} videos could not be compared, {len(misplaced)} with misplaced tokens; "
            f"extract again{' into another --out, with --precision fp32' * coarse}, or check that --src is the source of "
            "this cache"
        )


def _worst(name: str, found: list[Comparison]) -> str:
    if not found:
        return f"{name} absent"
    cosine, error = min(c.cosine for c in found), max(c.relative_error for c in found)
    return f"{name} cosine {cosine:.6f} error {error:.1e}"


def _required(src: Path | None) -> Path:
    if src is None:
        raise InputError("say where the videos lie with --src: features are made again from them")
    return src


def _paths(src: Path, cache: Cache) -> dict[str, Path]:
    """Where the inputs lie, by id."""
    return {source.id: source.path for source in _sources(src, cache)}


def _sources(src: Path, cache: Cache) -> tuple[Source, ...]:
    """All inputs; sound files too where the cache may hold them."""
    from pipeline.backbones.kind import sound_alone_will_do
    from pipeline.sources.tree import discover

    sound = sound_alone_will_do((info.fingerprint, info.optional) for info in cache.streams.values())
    return discover(src, sound=sound).sources


def _repeatable(cache: Cache, console: Console) -> dict[str, Mapping[str, Any]]:
    """Fingerprints of the streams that can be made again, by name; says of the others why they cannot."""
    from cache.fingerprint import is_imported, weights_name
    from pipeline.backbones.kind import kind_of

    found = {}
    for name, info in cache.streams.items():
        if kind_of(name, info.fingerprint):
            found[name] = info.fingerprint
        elif is_imported(info.fingerprint):
            console.print(
                f"stream {name}: {weights_name(info.fingerprint)}: the values are those that were imported (same digest); what "
                "made them, and from which frames, cannot be repeated"
            )
        else:
            console.print(
                f"stream {name}: made by {info.fingerprint.get('model', 'an unknown model')}, not by a kind of stream that is "
                "installed here: its values are finite and in place, and cannot be repeated"
            )
    return found


def _name_affected(cache: Path, src: Path, console: Console) -> None:
    """Raises ParityError where stored videos are affected, and InputError where some are not in the source."""
    from cache.reader import open_cache
    from pipeline.decoding.decoders.base import DECODING_RULES
    from pipeline.redo import affected_videos, stored_rules

    with open_cache(cache) as opened:
        paths = _paths(src, opened)
        rules = stored_rules(opened)
        console.print(
            f"{cache}: {len(opened)} videos by decoding rules {rules}; present rules: {DECODING_RULES}"
        )
        affected = affected_videos(opened, paths)
        if rules < DECODING_RULES and len(opened.rejects):
            console.print(
                f"{len(opened.rejects)} rejects by these rules: extract --redo affected tries them again too"
            )
        unseen = [str(video_id) for video_id in opened.videos.id if video_id not in paths]
    for video_id, reason in affected.items():
        console.print(f"affected: {video_id}: {reason}")
    if unseen:
        raise InputError(
            f"{len(unseen)} stored videos are not in {src}, such as {unseen[0]}: nothing can be said of them; "
            "give the source that holds them all"
        )
    if affected:
        raise ParityError(
            f"{cache}: {len(affected)} videos may hold wrong frames, named above: "
            "extract --redo affected with the settings of the cache extracts them again"
        )
    console.print("no stored video is affected")
