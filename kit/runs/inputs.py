"""Whether a stage is done: its inputs, written down when it was made, are compared with those it would have now."""

from pathlib import Path
from typing import Any

from kit.config import NEEDS, Config
from kit.runs.files import file_sha256, value_sha256
from kit.runs.folder import RunFolder

# Settings that trade memory for time and leave the result as it is.
_WITHOUT_EFFECT = {"micro_batch_size", "rollout_batch_size", "scoring_batch_size"}


def stage_inputs(stage: str, config: Config, fingerprint: str, folder: RunFolder) -> dict[str, Any] | None:
    """What decides a stage's result: its settings, the data, and the adapters it starts from.

    `fingerprint` is the data's. None while a stage it needs is not there yet.
    """
    needs = NEEDS[stage] if stage != "compare" else [name for name in config.stages if name != "compare"]
    adapters = {name: record.adapter_sha256 for name in needs if (record := folder.stage(name)) is not None}
    if len(adapters) < len(needs):
        return None
    lengths = {name: getattr(config.data, name) for name in ("max_prompt_tokens", "max_response_tokens")}
    files = {"reward_files": _reward_files(config)} if stage == "ppo" and _reward_files(config) else {}
    return {
        stage: getattr(config, stage).model_dump(mode="json", exclude=_WITHOUT_EFFECT),
        **files,
        "model": config.model.model_dump(mode="json"),
        "lora": config.lora.model_dump(mode="json"),
        "data": {"fingerprint": fingerprint, **lengths},
        "seed": config.seed,
        "adapters": adapters,
    }


def _reward_files(config: Config) -> dict[str, str]:
    """SHA-256 of each file that holds a reward function: an edited one makes PPO run again."""
    paths = {Path(place) for spec in config.ppo.reward_funcs if (place := spec.rpartition(":")[0]).endswith(".py")}
    return {str(path): file_sha256(path) for path in sorted(paths) if path.is_file()}


def is_done(stage: str, config: Config, fingerprint: str, folder: RunFolder) -> bool:
    """Whether the finished stage was made of the very inputs it would have now."""
    record, inputs = folder.stage(stage), stage_inputs(stage, config, fingerprint, folder)
    return record is not None and inputs is not None and value_sha256(record.inputs) == value_sha256(inputs)


def changed_inputs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the inputs of two runs of a stage, as `key old -> new`; empty when nothing does."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} {_short(before.get(key))} -> {_short(after.get(key))}" for key in keys]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
