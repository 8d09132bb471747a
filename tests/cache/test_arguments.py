from __future__ import annotations

import numpy as np
import pytest

from cache.arguments import is_number, require_open_cache, require_whole, shown
from cache.errors import InputError


@pytest.mark.parametrize("value", [0, 5, np.int64(5)])
def test_whole_numbers_pass(value: object) -> None:
    require_whole("n", value, 0, 5)


@pytest.mark.parametrize("value", [-1, 6, 2.0, "2", None, True, [2]])
def test_others_are_named(value: object) -> None:
    with pytest.raises(InputError, match="n must be a whole number between 0 and 5, got"):
        require_whole("n", value, 0, 5)


def test_numbers_are_told_from_truth_values_and_text() -> None:
    assert is_number(1.5) and is_number(np.float32(1)) and not is_number("1") and not is_number(True)


def test_values_are_shown_on_one_line() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert shown({"a": 1}) == "dict {'a': 1}"
    assert len(shown(list(range(100)))) < 70
    assert "\n" not in shown(np.zeros((9, 9)))


def test_a_path_is_no_open_cache() -> None:
    with pytest.raises(InputError, match=r"f takes an open cache, not 'c.zarr'; open it first"):
        require_open_cache("c.zarr", "f")
