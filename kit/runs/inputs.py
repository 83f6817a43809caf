"""Whether a stage is done: its inputs, written down when it was made, are compared with those it would have now."""

import functools
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.runs.files import file_sha256
from kit.runs.folder import RunFolder
from kit.runs.steps import JUDGE, Step

# Settings that leave the result as it is: they trade memory for time, keep more beside it, silence a gate, or say when
# to stop.
_WITHOUT_EFFECT = {
    "micro_batch_size", "rollout_batch_size", "scoring_batch_size", "snapshots", "force", "max_kl", "guards_off",
}  # fmt: skip


# Of a labelling project: what was asked, and the judgements (SQLite's write-ahead log, while somebody has it open).
_PEOPLES_FILES = ("items.jsonl", "judgements.sqlite", "judgements.sqlite-wal")
_NAMES = {"data.fingerprint": "the data (SHA-256 of the rows)"}
_NOTHING = object()


def stage_inputs(step: Step, config: Config, fingerprint: str, folder: RunFolder) -> dict[str, Any] | None:
    """What decides a step's result: its settings, the data, and the adapters it starts from.

    `fingerprint` is the data's. None while a step it needs is not there yet.
    """
    adapters = {name: record.adapter_sha256 for name in step.needs if (record := folder.stage(name)) is not None}
    if len(adapters) < len(step.needs):
        return None
    section = "reward" if step.stage == JUDGE else step.stage
    lengths = {name: getattr(config.data, name) for name in ("max_prompt_tokens", "max_response_tokens")}
    return {
        section: getattr(config, section).model_dump(mode="json", exclude=_WITHOUT_EFFECT),
        **_files(step.stage, config),
        "model": config.model.model_dump(mode="json"),
        "lora": config.lora.model_dump(mode="json", exclude=None if config.lora.dtype != "float32" else {"dtype"}),
        "data": {"fingerprint": fingerprint, **lengths},
        "seed": step.seed,
        "adapters": adapters,
    }


def _files(stage: str, config: Config) -> dict[str, dict[str, str]]:
    """SHA-256 of each file that the stage's settings name (functions, votes, a template): an edited one counts."""
    named: list[str] = []
    if stage == "ppo":
        named = list(config.ppo.reward_funcs)
    if stage == "compare":
        named = [config.compare.judge, (config.compare.llm and config.compare.llm.template) or ""]
        if config.people is not None:
            named += [str(config.people / file) for file in _PEOPLES_FILES]
    paths = {Path(spec.rpartition(":")[0] if ".py:" in spec else spec) for spec in named}
    there = [path for path in sorted(paths) if path.suffix and path.is_file() and path.stat().st_size]
    found = {str(path): file_sha256(path) for path in there}
    return {"files": found} if found else {}


def checkpoint_inputs(step: Step, config: Config, fingerprint: str, folder: RunFolder) -> dict[str, Any] | None:
    """What decides whether a checkpoint of a step fits: its inputs, and the form of its optimizer's state (under
    `memory: lean` AdamW's moments have 8 bits)."""
    inputs = stage_inputs(step, config, fingerprint, folder)
    return inputs if inputs is None or config.memory != "lean" else inputs | {"memory": "lean"}


def is_done(step: Step, config: Config, fingerprint: str, folder: RunFolder) -> bool:
    """Whether the finished step was made of the very inputs it would have now."""
    record, inputs = folder.stage(step.name), stage_inputs(step, config, fingerprint, folder)
    return record is not None and inputs is not None and not changed_inputs(record.inputs, inputs)


def changed_inputs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the inputs of two runs of a stage, as `key old -> new`; empty when nothing does that counts.

    Earlier versions wrote down settings without effect, too, and knew nothing of newer settings, which had for them
    what is the default now.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    before = {key: default for key, default in _defaults().items() if key in after} | before
    keys = [key for key in {**before, **after} if before.get(key, _NOTHING) != after.get(key, _NOTHING)]
    counting = [key for key in keys if key.rpartition(".")[2] not in _WITHOUT_EFFECT]
    return [f"{_NAMES.get(key, key)} {_short(before.get(key))} -> {_short(after.get(key))}" for key in counting]


@functools.cache
def _defaults() -> dict[str, Any]:
    return dict(_flat(Config().model_dump(mode="json")))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
