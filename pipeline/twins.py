"""Inputs with the same bytes, found before anything is decoded: what is kept must not depend on which decode ends first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.assembly import Input
from pipeline.worker import file_digest


def firsts_and_twins(work: Sequence[Input]) -> tuple[list[Input], list[Input]]:
    """The first input of every content in the order given, and the later ones. Only files of one size are read.

    A file that cannot be read is a first: its decode says why.
    """
    sizes = Counter(item.size_bytes for item in work)
    seen: set[str] = set()
    firsts: list[Input] = []
    twins: list[Input] = []
    for item in work:
        digest = _digest(item) if item.size_bytes and sizes[item.size_bytes] > 1 else ""
        (twins if digest and digest in seen else firsts).append(item)
        seen.add(digest)
    return firsts, twins


def _digest(item: Input) -> str:
    try:
        return file_digest(str(item.source.path))
    except OSError:
        return ""
