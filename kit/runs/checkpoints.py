"""Checkpoints: whole or absent when they are written, verified before they are used.

    .<stage>-checkpoints/checkpoint-12/           what a run goes on from after step 12; MANIFEST.json is written last
                         .checkpoint-16.<pid>.tmp one being written
                         checkpoint-8.corrupt     one that was found damaged, set aside
                         metrics.jsonl …          logs that grow; each checkpoint holds them as they were at its step

The manifest has the size and SHA-256 of every file, and the facts of the run: step, versions, what it is made of.
"""

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kit import notices
from kit.errors import MachineError
from kit.runs.disk import is_full
from kit.runs.files import file_sha256, publish_folder, value_sha256, write_json

MANIFEST = "MANIFEST.json"
LOGS = ("metrics.jsonl", "completions.jsonl")  # beside the checkpoints, and in each as they were at its step
KEPT = 2
CORRUPT = ".corrupt"  # ends the name of what was set aside
_NAME = "checkpoint-"


class Checkpoints:
    """The checkpoints of one stage, in a folder that outlives the process.

    `inputs` are what the stage is made of (`kit.runs.inputs`), `versions` those of the libraries. `facts` may be added
    to until a checkpoint is written; `newest` is what the stage goes on from, and is looked for once.
    """

    def __init__(
        self, path: Path, inputs: Mapping[str, Any] | None = None, versions: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, Any] = {"inputs": dict(inputs or {}), "versions": dict(versions or {})}
        self._facts_before: dict[str, Any] = {}
        self._began = time.monotonic()

    @cached_property
    def newest(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are set aside, and the logs become those of its step."""
        found = newest_whole(self.path)
        restore_logs(self.path, found)
        self._facts_before = {} if found is None else read_manifest(found)
        return found

    def before(self, fact: str, default: Any = None) -> Any:
        """A fact that the newest checkpoint was written with."""
        return default if self.newest is None else self._facts_before.get(fact, default)

    @property
    def seconds(self) -> float:
        """Time the stage has taken so far, that of the processes before this one included."""
        return self.before("seconds", 0.0) + time.monotonic() - self._began

    def facts_now(self) -> dict[str, Any]:
        """What the manifest of a checkpoint written now says of the run."""
        return self.facts | {"seconds": round(self.seconds, 2)}

    def hand_over(self, out: Path) -> None:
        """Copy what grew beside the checkpoints, logs and snapshots, into the stage's folder."""
        for name in LOGS:
            if (self.path / name).exists():
                shutil.copy(self.path / name, out)
        if (self.path / "snapshots").exists():
            shutil.copytree(self.path / "snapshots", out / "snapshots")


def write_checkpoint(
    folder: Path, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any], kept: int | None = KEPT
) -> Path:
    """Write `folder/checkpoint-<step>`, whole or not at all; after it, all but the `kept` newest go.

    `fill` writes the files into the folder that it is given. Raises MachineError where there is no room, also not after
    older checkpoints but the newest went.
    """
    target = folder / f"{_NAME}{step}"
    if target.exists() and damage(target) is None:
        return target
    for tries_left in (1, 0):
        try:
            _write(target, step, fill, facts)
            break
        except Exception as error:
            if not is_full(error):
                raise
            if tries_left and prune(folder, 1):
                continue
            raise MachineError(_what_is_missing(target, facts, error)) from None
    prune(folder, kept)
    return target


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose manifest verifies; each damaged one that is newer is set aside, with one notice."""
    for path in _checkpoints(folder):
        found = damage(path)
        if found is None:
            return path
        aside = next(p for p in names_aside(path) if not p.exists())
        os.rename(path, aside)
        notices.warn(f"{path}: damaged ({found}); set aside as {aside.name}, and the checkpoint before it is used")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is what it was when it was written."""
    try:
        manifest = read_manifest(path)
        own, files = manifest.pop("manifest_sha256"), dict(manifest["files"])
    except FileNotFoundError:
        return f"no {MANIFEST}: it was not written to its end, or not by this version of the kit"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    if own != value_sha256(manifest):
        return f"{MANIFEST} was changed"
    for name, wanted in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != wanted["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes, not {wanted['bytes']:,}"
        if file_sha256(file) != wanted["sha256"]:
            return f"{name} has other content than was written"
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, not verified."""
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def step_of(path: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(path.name.removeprefix(_NAME))


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """What the newest readable manifest says; nothing is verified and nothing set aside."""
    for path in _checkpoints(folder):
        try:
            return read_manifest(path)
        except (OSError, ValueError):
            continue
    return None


def restore_logs(folder: Path, checkpoint: Path | None) -> None:
    """Let the logs beside the checkpoints be those of one of them, or none: later lines will be written again."""
    for name in LOGS:
        (folder / name).unlink(missing_ok=True)
        if checkpoint is not None and (checkpoint / name).exists():
            shutil.copy(checkpoint / name, folder / name)
    if checkpoint is None:
        shutil.rmtree(folder / "snapshots", ignore_errors=True)


def prune(folder: Path, kept: int | None) -> int:
    """Remove all but the `kept` newest checkpoints; how many went."""
    old = _checkpoints(folder)[kept:] if kept is not None else []
    for path in old:
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.rename(path, doomed)  # a part of a checkpoint is never found under its name
        shutil.rmtree(doomed, ignore_errors=True)
    return len(old)


def _write(target: Path, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
    place = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        fill(place)
        for name in LOGS:
            if (target.parent / name).exists():
                shutil.copy(target.parent / name, place)
        entries = {
            file.relative_to(place).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
            for file in sorted(place.rglob("*"))
            if file.is_file()
        }
        manifest = json.loads(json.dumps({"step": step, **facts, "files": entries}, default=str))
        write_json(place / MANIFEST, manifest | {"manifest_sha256": value_sha256(manifest)})
        publish_folder(place, target)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints by their names, newest first; those set aside and those being written have other names."""
    found = [path for path in folder.glob(f"{_NAME}*") if path.name.removeprefix(_NAME).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def names_aside(path: Path) -> Iterator[Path]:
    """Names beside a damaged file or folder to set it aside by."""
    yield path.with_name(f"{path.name}{CORRUPT}")
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}{CORRUPT}")


def _what_is_missing(target: Path, facts: Mapping[str, Any], error: BaseException) -> str:
    free, needed = shutil.disk_usage(target.parent).free, facts.get("checkpoint_bytes")
    whole = next((path for path in _checkpoints(target.parent) if damage(path) is None), None)
    kept = f"the checkpoint of step {step_of(whole)} is kept" if whole else "no checkpoint was written before"
    wanted = f"a checkpoint takes about {needed / 2**20:,.0f} MiB, and " if needed else ""
    return (
        f"{target.parent}: the disk is full ({str(error).splitlines()[0][:120]}): {wanted}{free / 2**20:,.0f} MiB are "
        f"free; {kept}. Make room there, and run the same again to go on"
    )
