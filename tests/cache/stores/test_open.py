from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.stores.open import cache_format, staging_path


@pytest.mark.parametrize(
    ("name", "form"), [("a.zarr", "zarr"), ("a.h5", "hdf5"), ("a.HDF5", "hdf5"), ("v1.0.zarr", "zarr")]
)
def test_the_suffix_decides(name: str, form: str) -> None:
    assert cache_format(Path(name)) == form


@pytest.mark.parametrize("name", ["a", "a.npz", "zarr", ".h5", "a.h5.staging"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CacheError, match=r"must end in \.zarr, \.h5 or \.hdf5"):
        cache_format(Path(name))


def test_staging_lies_beside_the_file() -> None:
    assert staging_path(Path("x/a.h5")) == Path("x/a.h5.staging")
