"""Everything that can be known before weights load: configuration, data, tokenizer, TRL's arguments.

What would stop a stage later stops the run here, in seconds, with nothing written. The heavy libraries are imported
once configuration and data have passed.
"""

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import config_file, notices
from kit.config import Config, Stage
from kit.data import Data, catalogue
from kit.data.found import Stops
from kit.errors import ConfigError, DataError, MachineError, ModelError
from kit.floors import check_floors
from kit.runs.folder import RunFolder
from kit.runs.inputs import is_done
from kit.runs.steps import JUDGE, Step, run_steps

if TYPE_CHECKING:
    from kit.findings.findings import Findings
    from kit.models.base import Base
    from kit.models.encoding import Encoded
    from kit.models.plan.shape import Shape


@dataclass(frozen=True)
class Checked:
    """What a run stands on, checked: the base (its weights not loaded) and the data as its tokens."""

    base: "Base"
    encoded: "Encoded"
    notes: list[str]


def load_config(source: str | Path | Mapping | Config, overrides: Sequence[str] = (), **settings: Any) -> Config:
    """The validated configuration; raises ConfigError with every problem and its place. See `kit.config_file`."""
    return config_file.load_config(source, overrides, checks=(_trl_problems,), **settings)


def load_run_config(folder: RunFolder, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run that is there, which holds its own place, wherever the folder was moved to."""
    here = {"name": folder.path.name, "output_dir": str(folder.path.parent)}
    return load_config(folder.path / "config.yaml", overrides, **here)


def check_memory(config: Config) -> None:
    """Refuse, before anything is downloaded, a base that this machine cannot hold; see `kit plan`.

    Raises MachineError. A base of which no config.json can be had is left to the check of the model.
    """
    import psutil

    from kit.models.plan.card import find_card
    from kit.models.plan.planner import base_shape, check_fits, check_weights_fit_host

    with contextlib.suppress(ModelError):
        shape, card = base_shape(config.model), find_card()
        if card is not None:
            check_fits(config, shape, card)
        else:
            check_weights_fit_host(config, shape, psutil.virtual_memory().total)


def check_disk(config: Config, shape: "Shape", steps: Sequence[Step], folder: RunFolder) -> int:
    """Bytes of the largest checkpoint of these steps.

    Raises MachineError where the disk has no room for what they write, with how much is missing.
    """
    import shutil

    from kit.models.plan.disk import disk_need

    needs = {step.name: disk_need(config, shape, _kind(step)) for step in steps}
    there = sum(file.stat().st_size for step in steps for file in folder.checkpoints_path(step.name).rglob("*"))
    running = max((need.while_running for need in needs.values()), default=0)
    needed = max(0, running - there) + sum(need.left for need in needs.values())
    free = shutil.disk_usage(folder.path).free
    if needed <= free:
        return max((need.checkpoint for need in needs.values()), default=0)
    largest = max(needs, key=lambda name: needs[name].while_running)
    raise MachineError(
        f"{folder.path}: {_mib(free)} are free on this disk, and {', '.join(needs)} need {_mib(needed)}: up to "
        f"{_mib(running)} for the checkpoints of {largest} while it runs, {_mib(needed - max(0, running - there))} for "
        f"what stays. Free {_mib(needed - free)}, set output_dir= to another disk, or keep fewer snapshots "
        "(ppo.snapshots, dpo.snapshots)"
    )


def _kind(step: Step) -> Stage:
    """The stage whose settings a step has: the judge is a reward model."""
    return "reward" if step.stage == JUDGE else step.stage  # type: ignore[return-value]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def check_model_and_data(config: Config, data: Data, weights: bool = True, stops: Stops | None = None) -> Checked:
    """The base and the encoded data; raises KitError for whatever would stop a stage later.

    The base's weights are not loaded. With `weights=False` the demo's are not made either. `stops` may gather what is
    wrong with the data.
    """
    _check_stages_have_data(config, data)
    _check_trackers(config)

    with notices.quiet_libraries():
        from kit.compare.judging import check_judge
        from kit.models.base import find_base
        from kit.models.encoding import encode_data
        from kit.models.plan.choice import choose
        from kit.stages.arguments import TRAINING_STAGES, build_arguments
        from kit.stages.reward_funcs import reward_funcs
        from kit.stages.sizes import machine_of

        if "compare" in config.stages:
            check_judge(config, data.prompts.held_out)
        if "ppo" in config.stages:
            reward_funcs(config.ppo)
        base = find_base(config, weights)
        for stage in [stage for stage in config.stages if stage in TRAINING_STAGES]:
            smallest = choose(config, base.shape, stage, 0, machine_of(base))
            build_arguments(config, stage, base.precision, config.run_path, smallest, rows=1)
        encoded = encode_data(data, base.codec, config.data, stops)
    return Checked(base, encoded, [*data.notes, *encoded.notes])


def check(source: str | Path | Mapping | Config, overrides: Sequence[str] = (), **settings: Any) -> "Findings":
    """What the data hold and what a run would do: read with the real tokenizer, no weights loaded, nothing written.

    What is wrong with the data stands in `stops` of the findings, all of it; they show themselves in a notebook.
    Raises KitError for a configuration or a model that is wrong, and for data that cannot be read at all.
    """
    from kit.compare.who_judges import load_run_data

    check_floors()
    config = load_config(source, overrides, **settings)
    folder = RunFolder(config.run_path)
    folder.refuse_strangers()
    check_memory(config)
    stops = Stops(gather=True)
    try:
        data = load_run_data(config, folder, stops)
        checked = check_model_and_data(config, data, weights=False, stops=stops)
    except DataError as error:  # perhaps because of what was gathered before it
        causes = [text for text in stops.texts if text not in str(error)]
        raise DataError("\n".join([*causes, str(error)])) from None
    steps: dict[str, bool] = {}
    for step in run_steps(config, with_judge=bool(data.judge)):
        needed = any(steps.get(name, False) for name in step.needs)
        steps[step.name] = needed or not is_done(step, config, data.fingerprint, folder)

    from kit.findings.gather import findings_of

    return findings_of(config, data, checked.encoded, checked.base, stops, steps, str(folder.path))


def check_run(source: str | Path | Mapping | Config, overrides: Sequence[str] = (), **settings: Any) -> list[str]:
    """What a run would do, as lines to read. Loads no weights, writes nothing; raises KitError where it would stop."""
    found = check(source, overrides, **settings)
    if found.stops:
        raise DataError("\n".join(found.stops))
    return found.lines()


def _check_stages_have_data(config: Config, data: Data) -> None:
    needing = [stage for stage in config.stages if stage != "sft"]
    if needing and not data.pairs.train:
        raise DataError(f"data.preferences: none given, but {', '.join(needing)} need pairs; set it, or run sft alone")
    if "reward" in config.stages and config.reward.margin:
        without = data.pairs.train.without_margin()
        if without == len(data.pairs.train):
            raise DataError(catalogue.NO_MARGINS.format(margin=config.reward.margin))
        if without:
            notices.warn(catalogue.SOME_MARGINS.format(count=without, all=len(data.pairs.train)))
    if "compare" in config.stages and not data.prompts.held_out:
        raise DataError("compare: no held-out prompts; give more data or raise data.eval_fraction")


def _check_trackers(config: Config) -> None:
    """Raise ConfigError for a tracker that is asked for and not installed; a trainer would fail on it much later."""
    names = [config.report_to] if isinstance(config.report_to, str) else config.report_to
    absent = [name for name in names if name not in ("none", "all") and importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"report_to: {', '.join(absent)} is not installed; `pip install {' '.join(absent)}`, or none")


def _trl_problems(raw: Mapping) -> list[config_file.Problem]:
    """Problems of the `trl:` mappings; TRL is imported only where there is one."""
    if not any(isinstance(section, Mapping) and section.get("trl") for section in raw.values()):
        return []
    from kit.stages.arguments import trl_problems

    return trl_problems(raw)
