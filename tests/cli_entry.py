"""`extract` with one model more than open_clip knows: a vision transformer so small that a run takes seconds.

Run as a script by tests that need the real command in a process of its own; ONEPASS_TEST_MACHINE names another machine for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TINY_MODELS = Path(__file__).parent / "pipeline" / "backbones" / "tiny-vit.json"


def main() -> None:
    from pipeline.cli.extract import main as extract

    if "tiny-vit" in sys.argv:
        import open_clip

        open_clip.add_model_config(TINY_MODELS)
    if name := os.environ.get("ONEPASS_TEST_MACHINE"):
        from cache import lease
        from tests.cache.test_lease import on_machine

        on_machine(name)
        lease.LEASE_SECONDS, lease.BEAT_SECONDS = 1.0, 0.1
    extract()


if __name__ == "__main__":
    main()
