from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cache


def test_public_names() -> None:
    assert cache.__all__ == ["Cache", "CacheWriter", "OnepassError", "open_cache", "write_features"]
    for name in cache.__all__:
        assert getattr(cache, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        cache.nosuch


def test_labels_are_joined_by_one_name() -> None:
    import cache.labels
    from cache.labels.join import label_videos

    assert cache.labels.label_videos is label_videos
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        cache.labels.nosuch


def test_neither_torch_nor_the_other_packages_are_imported() -> None:
    script = (
        "import sys, cache.writer, cache.reader, cache.convert, cache.check;"
        "bad = {'torch', 'zarr', 'h5py', 'pipeline', 'heads', 'sklearn'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
