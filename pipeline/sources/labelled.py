"""Sources with their labels: what `discover` finds, joined with label and source-group files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import InputError, LabelError
from cache.labels.groups import source_group
from cache.labels.join import (
    JoinedBy,
    LabelNames,
    choose_positive,
    label_videos,
    match_entries,
    near_misses,
    read_entries,
    shortened,
)
from cache.labels.media import utf8_path
from cache.labels.names import is_known_word, is_number, same_name
from cache.schema import UNKNOWN_LABEL, VideoLabel
from pipeline.sources.remote import local_copy
from pipeline.sources.tree import Source, SourceTree, discover

__all__ = ["ResolvedSources", "Source", "SourceTree", "discover", "resolve_labels"]

SOURCES_FILE = "sources.csv"


@dataclass(frozen=True, slots=True)
class ResolvedSources:
    """Every input with its label (-1 where unknown), the class names (None: nothing is labelled), lines to
    print. A folder that cannot be listed is an input without a label.
    """

    sources: tuple[Source, ...]
    labels: Mapping[str, VideoLabel]
    names: LabelNames | None
    lines: tuple[str, ...]

    def spelt_as(self, names: tuple[str, str] | None) -> ResolvedSources:
        """The same with class names as a cache, (negative, positive), spells them, where they differ in no more than case."""
        mine = self.names
        if mine is None or names is None or not all(map(same_name, names, (mine.negative, mine.positive))):
            return self
        spelling = {0: names[0], 1: names[1]}
        labels = {
            video_id: replace(label, label_name=spelling.get(label.label, label.label_name))
            for video_id, label in self.labels.items()
        }
        return replace(self, labels=labels, names=LabelNames(*names))

    @property
    def n_unlabelled(self) -> int:
        """How many inputs have no label."""
        return sum(label.label == UNKNOWN_LABEL for label in self.labels.values())


def resolve_labels(
    tree: SourceTree,
    *,
    labels_file: str | Path | None = None,
    sources_file: str | Path | None = None,
    positive: str | None = None,
    allow_unmatched: bool = False,
) -> ResolvedSources:
    """Give every source its label, split and source group.

    Labels come from `labels_file`, else from the manifest, else from the class folders; splits from the first
    of these that has one. Source groups come from `sources_file`, else from `labels_file`, else from the
    manifest, else from `sources.csv` in the source folder where its paths join. Sources without any label at
    all (a flat folder) are fine: they get -1 and the lines say so.

    Raises LabelError for labels that are not of two classes, for files that do not join at all, and, unless
    `allow_unmatched`, for sources without a label beside labelled ones and for labels without a source.
    """
    lines = list(tree.describe())
    ids = [source.id for source in tree.videos]
    names: LabelNames | None
    if labels_file is not None:
        names, labels, told = _from_file(
            tree, labels_file, positive=positive, allow_unmatched=allow_unmatched
        )
    else:
        names, labels, told = _from_tree(tree, positive=positive, allow_unmatched=allow_unmatched)
    lines += told
    groups, told = _groups(tree, sources_file, allow_unmatched=allow_unmatched)
    lines += told
    resolved: dict[str, VideoLabel] = {}
    for source in tree.sources:
        if source.unlisted:
            resolved[source.id] = VideoLabel(UNKNOWN_LABEL, "")
            continue
        label = labels.get(source.id, VideoLabel(UNKNOWN_LABEL, ""))
        given = groups.get(source.id, "")
        if sources_file is not None:
            group = given or label.source or source.source
        else:
            group = label.source or source.source or given
        resolved[source.id] = VideoLabel(label.label, label.label_name, label.split or source.split, group)
    lines += _counts({video_id: resolved[video_id] for video_id in ids}, names) + _group_lines(ids, resolved)
    return ResolvedSources(tree.sources, resolved, names, tuple(lines))


def _from_file(
    tree: SourceTree, labels_file: str | Path, *, positive: str | None, allow_unmatched: bool
) -> tuple[LabelNames, dict[str, VideoLabel], list[str]]:
    try:
        join = label_videos(
            [source.id for source in tree.videos],
            labels_file=labels_file,
            positive=positive,
            allow_unmatched=allow_unmatched,
        )
    except LabelError as problem:
        raise _with_unlisted(problem, tree) from None
    lines = [_positive_line(join.names, positive), *join.report()]
    names, matched = join.names, join.matched
    known = [(source, matched[source.id]) for source in tree.videos if source.id in matched]
    other = [s.id for s, label in known if names.number(s.label_name) not in (None, label.label)]
    if other:
        lines.append(f"{len(other)} labels differ from folder or manifest, the file wins: {shortened(other)}")
    moved = [s.id for s, label in known if s.split and label.split and s.split != label.split]
    if moved:
        lines.append(f"{len(moved)} splits differ from folder or manifest, the file wins: {shortened(moved)}")
    return names, matched, lines


def _from_tree(
    tree: SourceTree, *, positive: str | None, allow_unmatched: bool
) -> tuple[LabelNames | None, dict[str, VideoLabel], list[str]]:
    counts = Counter(source.label_name for source in tree.videos if source.label_name)
    unlabelled = f"no labels: all {len(tree.videos)} videos are unlabelled; --labels FILE gives labels"
    if not counts:
        return None, {}, [unlabelled]
    codes = tree.layout == "manifest" and {*filter(is_number, counts)} <= {"-1", "0", "1"}
    known = {
        name: n for name, n in counts.items() if is_known_word(name) and (codes or not is_number(name))
    }  # a folder called 1 may be a camera's or a day's
    if len(counts) == 1 and positive is None and not known:
        return None, {}, [f"{unlabelled}, or --positive, if {next(iter(counts))!r} is a class"]
    where = {name: f"{n} videos" for name, n in counts.items()}
    try:
        names = choose_positive(counts, positive=positive, where=where)
    except LabelError as problem:
        if not allow_unmatched:
            raise LabelError(f"{problem}; --allow-unmatched goes on without these labels") from None
        try:  # two known names among others: the others are unlabelled
            names = choose_positive(known, positive=positive)
        except LabelError:
            if positive is not None:
                raise problem from None
            return None, {}, [f"{unlabelled} ({problem})"]
    labels = {}
    for source in tree.videos:
        label = names.label(source.label_name, split=source.split, source=source.source)
        if label is not None:
            labels[source.id] = label
    missing = [source.id for source in tree.videos if source.id not in labels]
    lines = [_positive_line(names, positive)]
    if missing:
        told = f"{len(missing)} of {len(tree.videos)} videos have no label: {shortened(missing)}"
        if not allow_unmatched:
            raise LabelError(
                f"{told}; put them into a class folder or give them a label, "
                "or pass --allow-unmatched to extract them without one"
            )
        lines.append(told)
    return names, labels, lines


def _groups(
    tree: SourceTree, sources_file: str | Path | None, *, allow_unmatched: bool
) -> tuple[dict[str, str], list[str]]:
    """Source by id from the file given, or from the one that lies in the source folder."""
    ids = [source.id for source in tree.videos]
    path: str | Path
    if sources_file is None:
        seen = [name for name, _ in tree.skipped if name.rsplit("/", 1)[-1] == SOURCES_FILE]
        if not seen:
            return {}, []
        name = min(seen, key=lambda name: (name.count("/"), name))
        path = f"{tree.root}/{name}" if isinstance(tree.root, str) else utf8_path(tree.root, name)
        try:
            with local_copy(path) if isinstance(path, str) else nullcontext(path) as there:
                groups, unmatched, how = _read_groups(there, ids)
        except InputError as problem:
            return {}, [f"{path} was found and not used: {problem}"]
    else:
        path = Path(sources_file)
        groups, unmatched, how = _read_groups(path, ids)
        missing = [video_id for video_id in ids if video_id not in groups]
        if missing and not allow_unmatched:
            raise LabelError(
                f"{path}: no source for {len(missing)} of {len(ids)} videos: {shortened(missing)}; "
                "complete the file, or pass --allow-unmatched to take those groups from the file names"
            )
    more = f"; {len(unmatched)} rows without a video: {shortened(unmatched)}" if unmatched else ""
    return groups, [
        f"sources: {len(groups)} of {len(ids)} videos have a source in {path}, {how.line()}{more}"
    ]


def _read_groups(path: Path, ids: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...], JoinedBy]:
    entries = read_entries(path, label_required=False)
    if not any(entry.source for entry in entries):
        raise LabelError(f"{path}: has no source column with values; name it 'source' or 'group'")
    matched, unmatched, how = match_entries(ids, entries)
    groups = {video_id: entry.source for video_id, entry in matched.items() if entry.source}
    if not groups:
        hints = near_misses(unmatched, ids)
        tried = f" by {how.columns()}" if how.tried else ""
        told = f"{path}: no row joins any video{tried}; rows are such as {shortened(unmatched, limit=2)}"
        raise LabelError("; ".join((told, f"videos such as {shortened(ids, limit=2)}", *hints)))
    return groups, unmatched, how


def _with_unlisted(problem: LabelError, tree: SourceTree) -> LabelError:
    """The problem, with the folders that could not be listed: their videos are among what did not join."""
    unlisted = [source.id for source in tree.sources if source.unlisted]
    if not unlisted:
        return problem
    return LabelError(
        f"{problem}\nfolders that cannot be listed, so their videos are unknown: {shortened(unlisted)}"
    )


def _positive_line(names: LabelNames, positive: str | None) -> str:
    how = "by --positive" if positive is not None else "by its name; --positive changes it"
    return f"positive class: {names.positive} (1), negative class: {names.negative} (0); chosen {how}"


def _counts(labels: Mapping[str, VideoLabel], names: LabelNames | None) -> list[str]:
    """One line a split: how many videos of each class."""
    if names is None:
        return []
    lines = []
    for split in ("train", "val", "test", ""):
        counts = Counter(label.label_name for label in labels.values() if label.split == split)
        if counts:
            told = [f"{counts[name]} {name}" for name in (names.negative, names.positive)]
            told += [f"{counts['']} unlabelled"] if counts[""] else []
            lines.append(f"{split or 'no split'}: {', '.join(told)}")
    return lines


def _group_lines(ids: Sequence[str], labels: Mapping[str, VideoLabel]) -> list[str]:
    """How many source groups there are, and what is suspicious about them."""
    groups = {video_id: source_group(video_id, labels[video_id].source) for video_id in ids}
    sizes = Counter(groups.values())
    named = sum(bool(labels[video_id].source) for video_id in ids)
    origin = "by file name" if named == 0 else f"given for {named} of {len(ids)} videos"
    lines = [f"source groups: {len(sizes)} ({origin})"]
    largest, size = sizes.most_common(1)[0]
    if len(ids) > 3 and size > len(ids) / 2:
        lines.append(
            f"warning: one source group, {largest!r}, holds {size} of {len(ids)} videos; "
            "if these are not cuts of one recording, give --sources FILE"
        )
    splits: dict[str, set[str]] = {}
    for video_id, group in groups.items():
        splits.setdefault(group, set()).add(labels[video_id].split)
    straddling = sorted(group for group, found in splits.items() if len(found - {""}) > 1)
    if straddling:
        told = shortened(straddling)
        lines.append(f"warning: {len(straddling)} source groups lie in several splits: {told}")
    return lines
