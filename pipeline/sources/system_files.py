"""Folders that operating systems and storage boxes put beside the user's: thumbnails, bins, snapshots."""

from __future__ import annotations

import re

SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "@__thumb", "@sharebin"),  # QNAP
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("lost+found", "~snapshot"),  # Linux, NetApp
    }
)
"""Lower-case names. Names that begin with a dot (.Trash-1000, .snapshot, .@__thumb, ...) are hidden anyway."""


_RECOVERED = re.compile(r"found\.\d{3}")  # what a disk check of Windows saved


def why_not_users(name: str, *, is_folder: bool) -> str:
    """Why this name is not one of the user's; "" for any other."""
    if is_folder and (name.lower() in SYSTEM_FOLDERS or _RECOVERED.fullmatch(name.lower())):
        return "system folder"
    if name.startswith("."):
        return "hidden folder" if is_folder else "hidden file"
    return ""
