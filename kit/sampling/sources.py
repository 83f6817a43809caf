"""Who writes the answers: adapters of a run, adapter folders from elsewhere, or the base alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.errors import ConfigError, RunError
from kit.models.outside import read_json
from kit.runs.files import file_sha256
from kit.runs.folder import ADAPTER_FILE, RunFolder

BASE, SFT = "base", "sft"
_CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Writer:
    """One who writes answers: its name as it was given, its adapter folder (None: the base alone), its SHA-256."""

    name: str
    folder: Path | None
    sha256: str | None


def find_writers(names: Sequence[str], run: RunFolder) -> list[Writer]:
    """The writers of these names: `base`, a finished stage of the run (`ppo-seed-1` too), or an adapter folder.

    Raises ConfigError for a name that is none of them, a reward model's, and one that stands twice.
    """
    if not names:
        raise ConfigError(f"--adapter: none given; {_wanted(run)}")
    found: list[Writer] = []
    for name in names:
        writer = _writer(name, run)
        if writer.folder in [other.folder for other in found]:
            raise ConfigError(f"--adapter {name}: stands twice; answers are shared out evenly over the adapters")
        found.append(writer)
    return found


def sft_adapter(run: RunFolder) -> Path:
    """The run's SFT adapter. Raises RunError where that stage is not done."""
    record = run.stage(SFT)
    if record is None:
        raise RunError(
            f"{run.path}: its stage sft is not done, so there is nothing to sample from. Run it: "
            f"kit run {run.path / 'config.yaml'}"
        )
    return record.adapter


def _writer(name: str, run: RunFolder) -> Writer:
    if name == BASE:
        return Writer(name, None, None)
    record = run.stage(name) if "/" not in name and "\\" not in name and name not in ("", ".", "..") else None
    folder = record.adapter if record is not None else Path(name).expanduser().resolve()
    if not (folder / _CONFIG_FILE).is_file() or not (folder / ADAPTER_FILE).is_file():
        raise ConfigError(f"--adapter {name}: no finished stage of this run, and no adapter folder; {_wanted(run)}")
    if _scores(folder):
        raise ConfigError(f"--adapter {name}: a reward model scores answers and writes none; {_wanted(run)}")
    return Writer(name, folder, file_sha256(folder / ADAPTER_FILE))


def _scores(folder: Path) -> bool:
    return read_json(folder / _CONFIG_FILE, str(folder)).get("task_type") == "SEQ_CLS"


def _wanted(run: RunFolder) -> str:
    done = [name for path in sorted(run.path.glob(f"*/{ADAPTER_FILE}")) if run.stage(name := path.parent.name)]
    writing = [name for name in done if not _scores(run.path / name)]
    return f"wanted {', '.join([*writing, BASE])}, or a folder with {_CONFIG_FILE} and {ADAPTER_FILE}"
