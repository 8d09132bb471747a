"""`extract` with one model more than open_clip knows: a vision transformer so small that a run takes seconds.

Run as a script by tests that need the real command in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

TINY_MODELS = Path(__file__).parent / "pipeline" / "backbones" / "tiny-vit.json"


def main() -> None:
    from pipeline.cli.extract import main as extract

    if "tiny-vit" in sys.argv:
        import open_clip

        open_clip.add_model_config(TINY_MODELS)
    extract()


if __name__ == "__main__":
    main()
