"""How many bytes the steps of a pass read and write, views left out: what their time is held against."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ONLY_MAKE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
ONLY_WRITE = frozenset({"zeros", "zeros_like", "new_zeros", "fill_", "zero_"})
NOT_READ_BEFORE = ONLY_WRITE | {"copy_"}


class Moved(TorchDispatchMode):
    """Context manager. n_bytes: of all steps of one kind and result, read and written once each."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes: Counter[str] = Counter()
        self._aside = 0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Steps that are not counted."""
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function.__name__.partition(".")[0]
        if self._aside or name in ONLY_MAKE:
            return made
        inputs, outputs = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
            for tree in ((args, kwargs), made)
        )
        read = [one for one in inputs if not any(one is other for other in outputs)]
        storages = {one.untyped_storage().data_ptr() for one in read}
        written = [one for one in outputs if one.untyped_storage().data_ptr() not in storages]
        if outputs and not written:
            return made  # a view
        moved = sum(one.nbytes for one in written)
        moved += 0 if name in ONLY_WRITE else sum(one.nbytes for one in read)
        if name.endswith("_") and name not in NOT_READ_BEFORE:
            moved += sum(one.nbytes for one in written)  # which it read before
        self.n_bytes[f"{name} {list(outputs[0].shape) if outputs else []}"] += moved
        return made
