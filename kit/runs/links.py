"""Links in a run folder: what is written or removed there must not be elsewhere."""

import os
from pathlib import Path

from kit.errors import RunError


def refuse_links(folder: Path) -> None:
    """Raise RunError where the run folder, or anything in it, is a symbolic link that leads out of it."""
    if folder.is_symlink():
        raise RunError(
            f"{folder}: is a link to {os.readlink(folder)}; a run folder is a folder of its own. To keep runs "
            "elsewhere, name that place in output_dir="
        )
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise RunError(
                    f"{path}: is a link to {os.readlink(path)}, out of the run folder; nothing is read or written "
                    "through it. Put the file itself there, or remove the link"
                )
