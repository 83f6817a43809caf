"""Everything that can be known before weights load: configuration, data, tokenizer, TRL's arguments.

What would stop a stage later stops the run here, in seconds, with nothing written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import config_file
from kit.config import Config
from kit.data import Data, load_data
from kit.errors import DataError
from kit.models.base import Base, find_base
from kit.models.encoding import Encoded, encode_data
from kit.stages.arguments import TRAINING_STAGES, build_arguments, trl_problems
from kit.stages.progress import quiet_libraries


@dataclass(frozen=True)
class Checked:
    """What a run stands on, checked: the base (its weights not loaded) and the data as its tokens."""

    base: Base
    encoded: Encoded
    notes: list[str]


def check_model_and_data(config: Config, data: Data, weights: bool = True) -> Checked:
    """The base and the encoded data; raises KitError for whatever would stop a stage later.

    The base's weights are not loaded. With `weights=False` the demo's are not made either.
    """
    from kit.compare.stage import judge_of

    needing = [stage for stage in config.stages if stage != "sft"]
    if needing and not data.pairs.train:
        raise DataError(f"data.preferences: none given, but {', '.join(needing)} need pairs; set it, or run sft alone")
    if "compare" in config.stages:
        judge_of(config)
        if not data.prompts.held_out:
            raise DataError("compare: no held-out prompts; give more data or raise data.eval_fraction")
    with quiet_libraries():
        base = find_base(config, weights)
        for stage in [stage for stage in config.stages if stage in TRAINING_STAGES]:
            build_arguments(config, stage, base.precision, config.run_path, longest=1, rows=1)
        encoded = encode_data(data, base.codec, config.data)
    return Checked(base, encoded, [*data.notes, *encoded.notes])


def check_run(config: str | Path | Mapping | Config, overrides: Sequence[str] = (), **settings: Any) -> list[str]:
    """What a run would do, as lines to read. Loads no weights, writes nothing; raises KitError where it would stop."""
    from kit.runs.folder import RunFolder
    from kit.runs.inputs import is_done

    checked_config = config_file.load_config(config, overrides, checks=(trl_problems,), **settings)
    data = load_data(checked_config.data, checked_config.seed)
    checked = check_model_and_data(checked_config, data, weights=False)
    folder = RunFolder(checked_config.run_path)
    tokens = sorted(len(prompt.ids) for prompt in checked.encoded.prompts.train)
    lines = [*checked.notes, f"base: {checked_config.model.base}, {checked.base.precision}"]
    if tokens:
        lines.append(f"prompts: {tokens[0]} to {tokens[-1]} tokens, median {tokens[len(tokens) // 2]}")
    for stage in checked_config.stages:
        done = is_done(stage, checked_config, data.fingerprint, folder)
        lines.append(f"{stage}: {'done, would be kept' if done else 'would run'}")
    return [*lines, f"run folder: {folder.path}", "all good"]
