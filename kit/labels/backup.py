"""One file that holds a whole project, made while its server may be running."""

import os
import sqlite3
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

from kit.errors import ConfigError, RunError
from kit.labels.project import GUIDELINES_FILE, ITEMS_FILE, PROJECT_FILE, STORE_FILE, Project
from kit.labels.store import Store
from kit.runs.files import sync


def back_up(project: Project, file: Path) -> int:
    """Write the project as it is now into a .zip, whole or not at all; how many judgements stand in it.

    The store is copied by SQLite, which holds still for the copy, and the copy is checked. A file that stands there is
    replaced by the whole new one. The secret of the links is not in it: who has a backup gets into no server by it.
    Unzipped into labels/, it is the project again; its links are new. Raises ConfigError and RunError.
    """
    if file.suffix.lower() != ".zip" or file.is_dir() or not file.parent.is_dir():
        raise ConfigError(f"{file}: name a .zip file in a folder that exists, e.g. {project.name}.zip")
    folder = Path(project.name)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as made:
            packed, store = Path(made) / "backup.zip", Path(made) / STORE_FILE
            count = _copy(project, store) if project.store.exists() else 0
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
                for name in (PROJECT_FILE, ITEMS_FILE, GUIDELINES_FILE):
                    if (project.path / name).exists():
                        out.write(project.path / name, folder / name)
                if store.exists():
                    out.write(store, folder / STORE_FILE)
            sync(packed)
            os.replace(packed, file)
        sync(file.parent)
    except (OSError, sqlite3.Error) as error:
        raise RunError(f"{file}: the backup was not made: {error}") from None
    return count


def _copy(project: Project, target: Path) -> int:
    """Copy the store, and see that the copy is whole; how many judgements stand in it."""
    with closing(Store(project.store, read_only=True)) as store:
        store.backup(target)
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, readable from anywhere
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise RunError(f"{project.store}: damaged: {str(found)[:200]}; the backup was not made")
        return int(copy.execute("SELECT count(*) FROM standing").fetchone()[0])
