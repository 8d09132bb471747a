"""A process that dies at the n-th thing it does to the disk, played inside this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from cache.stores import files
from cache.stores import hdf5 as hdf5_store


class Killed(BaseException):
    """The simulated death. Not an `Exception`, so that no ordinary handler survives it."""


class Countdown:
    """Lets `steps` disk operations pass; the next one happens partly, and from then on none happens at
    all.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.dead = False

    def step(self) -> bool:
        """Whether the operation at hand may happen whole; False once: then it happens in part."""
        if self.dead:
            raise Killed
        self.left -= 1
        if self.left < 0:
            self.dead = True
        return not self.dead


@contextlib.contextmanager
def dying_after(steps: int) -> Iterator[Countdown]:
    """Within this block the process dies in disk operation number `steps`."""
    countdown = Countdown(steps)
    write_all, remove_tree = files._write_all, files.remove_tree

    def write_partly(descriptor: int, data: memoryview, offset: int) -> None:
        if not countdown.step():
            write_all(descriptor, data[: len(data) // 2], offset)
            raise Killed
        write_all(descriptor, data, offset)

    def remove_partly(path: Path) -> None:
        if not countdown.step():
            for index, file in enumerate(sorted(path.rglob("*"), reverse=True)):
                if file.is_file() and index % 2:
                    file.unlink()
            raise Killed
        remove_tree(path)

    def whole_or_not(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not countdown.step():
                raise Killed
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(files, "_write_all", write_partly))
        stack.enter_context(mock.patch.object(files, "remove_tree", remove_partly))
        for name in ("_sync_one", "rename", "make_directory", "remove_file"):
            stack.enter_context(mock.patch.object(files, name, whole_or_not(getattr(files, name))))
        builder = hdf5_store.Hdf5Builder
        for name in ("append", "finish"):
            stack.enter_context(mock.patch.object(builder, name, whole_or_not(getattr(builder, name))))
        yield countdown
