"""The run folder: its ledger, and stages that are recorded as done only when they are whole.

    runs/<name>/config.yaml            the resolved configuration
                run.json               the ledger: status, versions, and for each stage its status, seconds and metrics
                <stage>/               appears by rename, whole, with its own stage.json inside
                .<stage>.<pid>.tmp     a stage being made; removed when the run starts again
                .<stage>-checkpoints/  what a killed stage goes on from; kept while its inputs are the same

A stage's own stage.json decides whether it is done: a kill between the rename and the ledger loses nothing.
"""

import functools
import importlib.metadata
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import notices
from kit.errors import RunError
from kit.runs.checkpoints import CORRUPT, Checkpoints, names_aside
from kit.runs.files import file_sha256, publish_folder, value_sha256, write_json
from kit.runs.links import refuse_links

STAGE_FILE = "stage.json"
ADAPTER_FILE = "adapter_model.safetensors"
_LOADED = (ADAPTER_FILE, "adapter_config.json", "base.json")  # of a stage's folder, by the stages after it
_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: where it is, what it was made of, how long it took and what came out."""

    name: str
    path: Path
    inputs: dict[str, Any] = field(repr=False)
    seconds: float
    peak_bytes: int | None
    metrics: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """Folder of the PEFT adapter."""
        return self.path

    @property
    def adapter_sha256(self) -> str:
        """SHA-256 of the adapter's weights."""
        return _sha256(self.path / ADAPTER_FILE)


class RunFolder:
    """One run on disk. Writing needs the lock (`kit.runs.lock.run_lock`); reading does not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse_strangers(self) -> None:
        """Raise RunError where the path is taken by something that is no run folder, or that leads out of it."""
        refuse_links(self.path)
        file = next((place for place in (self.path, *self.path.parents) if place.is_file()), None)
        if file is not None:
            raise RunError(f"{file}: is a file, where a folder is wanted; choose another name= or output_dir=")
        ours = (self.path / "run.json").exists() or any(self.path.glob(f"*/{STAGE_FILE}"))
        if ours or not self.path.exists():
            return
        strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        if strangers:
            raise RunError(
                f"{self.path}: exists and is not a run folder (it holds {', '.join(strangers[:3])}); "
                "choose another name= or output_dir="
            )

    def create(self, name: str) -> None:
        """Make the folder, or enter an existing run's."""
        self.path.mkdir(parents=True, exist_ok=True)
        # The ledger comes first of all: it marks the folder as a run, should the process be killed right after.
        self._write_ledger({**self.ledger(), "name": name, "status": "running", "versions": versions()})

    def clear_up(self) -> None:
        """What a killed process left: a stage that was about to be replaced is back, everything half-made goes."""
        for record in self.path.glob(f"*/{STAGE_FILE}"):
            stage = record.parent
            if self.stage(stage.name) is None and not stage.name.endswith(CORRUPT):
                aside = next(p for p in names_aside(stage) if not p.exists())
                os.rename(stage, aside)
                notices.warn(
                    f"{stage}: its adapter or {STAGE_FILE} is not what was written (cut off, or changed by hand); set "
                    f"aside as {aside.name}, and the stage is made again"
                )
        for old in self.path.glob(".old-*"):
            name_of = self.path / old.name.removeprefix(".old-")
            if old.is_dir() and not old.is_symlink() and not name_of.exists():
                os.rename(old, name_of)  # killed between the two renames that would have replaced it
        for leftover in [*self.path.glob(".*.tmp"), *self.path.glob(".old-*")]:
            if leftover.is_dir() and not leftover.is_symlink():  # of a link, the link alone goes
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def ledger(self) -> dict[str, Any]:
        """The content of run.json; an empty ledger where there is none yet."""
        try:
            ledger = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"name": self.path.name, "status": "new", "versions": {}, "stages": {}}
        except (ValueError, RecursionError):
            ledger = None
        if isinstance(ledger, dict) and isinstance(ledger.get("stages"), dict):
            return ledger
        raise RunError(f"{self.path / 'run.json'}: not a readable ledger; remove it to have it made again")

    def stage(self, name: str) -> StageRecord | None:
        """The finished stage of that name, or None: without a readable stage.json, or the adapter that was made, it is
        not done."""
        path = self.path / name
        if name != "compare" and not (path / ADAPTER_FILE).is_file():
            return None
        try:
            record = json.loads((path / STAGE_FILE).read_text(encoding="utf-8"))
            if not _is_as_written(path, record.get("sha256", {})):  # earlier versions wrote none
                return None
            return StageRecord(name, path, record["inputs"], record["seconds"], record["peak_bytes"], record["metrics"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def workplace(self, name: str) -> Path:
        """A fresh hidden folder to make the stage in."""
        path = self.path / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def checkpoints(self, name: str, inputs: dict) -> Checkpoints:
        """The checkpoints of a stage that is made of these inputs (`kit.runs.changed` says what differs)."""
        return Checkpoints(self.checkpoints_path(name), inputs, versions())

    def checkpoints_path(self, name: str) -> Path:
        """Where a stage's checkpoints lie while it is made."""
        return self.path / f".{name}-checkpoints"

    def forget_checkpoints(self, name: str) -> None:
        """Let a stage begin anew."""
        shutil.rmtree(self.checkpoints_path(name), ignore_errors=True)

    def start_stage(self, name: str) -> None:
        """Note in the ledger that the stage is being made."""
        self._update(name, {"status": "running"})

    def finish_stage(
        self, name: str, made_in: Path, inputs: dict, seconds: float, peak_bytes: int | None, metrics: dict
    ) -> StageRecord:
        """Publish the finished stage and note it in the ledger."""
        record = {
            "inputs_sha256": value_sha256(inputs), "seconds": round(seconds, 2), "peak_bytes": peak_bytes,
            "metrics": metrics, "inputs": inputs,
        }  # fmt: skip
        record["sha256"] = {name: file_sha256(made_in / name) for name in _LOADED if (made_in / name).exists()}
        write_json(made_in / STAGE_FILE, record)
        publish_folder(made_in, self.path / name)
        self.note_done(name)
        self.forget_checkpoints(name)
        finished = self.stage(name)
        if finished is None:
            raise RunError(f"{self.path / name}: could not be read back after it was written")
        return finished

    def note_done(self, name: str) -> None:
        """Copy a finished stage's record into the ledger."""
        record = json.loads((self.path / name / STAGE_FILE).read_text(encoding="utf-8"))
        del record["inputs"]
        self._update(name, {"status": "done", **record})

    def close(self, status: str) -> None:
        """Note how the run ended: done, stopped, interrupted or failed; a stage that was running ended so too."""
        ledger = self.ledger()
        stages = {
            name: entry | {"status": status} if entry.get("status") == "running" else entry
            for name, entry in ledger["stages"].items()
        }
        self._write_ledger({**ledger, "status": status, "stages": stages})

    def _update(self, stage: str, entry: dict) -> None:
        ledger = self.ledger()
        ledger["stages"] = {**ledger["stages"], stage: entry}
        self._write_ledger(ledger)

    def _write_ledger(self, ledger: dict) -> None:
        write_json(self.path / "run.json", ledger)


def _is_as_written(folder: Path, sha256: dict[str, str]) -> bool:
    """Whether the files that later stages load are those that were made."""
    return all((folder / name).is_file() and _sha256(folder / name) == sha for name, sha in sha256.items())


def _sha256(file: Path) -> str:
    """`file_sha256`, not read again while the file is the same."""
    found = file.stat()
    return _sha256_when(file, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=64)
def _sha256_when(file: Path, mtime_ns: int, size: int) -> str:
    return file_sha256(file)


def open_run(run_dir: Path | str) -> RunFolder:
    """The folder of a run that is there. Raises RunError where `run_dir` is no run folder."""
    folder = RunFolder(Path(run_dir).expanduser().resolve())
    if not all((folder.path / name).is_file() for name in ("config.yaml", "run.json")):
        raise RunError(f"{run_dir}: no run folder (it has no config.yaml); runs stand under output_dir/name")
    folder.refuse_strangers()
    return folder


def versions() -> dict[str, str]:
    """Versions of the kit and of the libraries that decide a run's numbers; absent ones are left out."""
    found = {}
    for name in ("rlhf-kit", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
