"""The order of the stages, and what each hands on.

    demonstrations ──> sft ──┬──> reward ──┐
    pairs ───────────────────┤             ├──> ppo ──┐
    prompts ─────────────────┤             │          ├──> compare
                             └──> dpo ─────┴──────────┘

A step is a stage with one training seed; most runs have one. A step runs when its inputs (its settings, the data, the
adapters it starts from) are not those it was made of.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import notices
from kit.config import Config, is_source_list
from kit.config_file import dump_config
from kit.data import Data
from kit.errors import ConfigError, KitError, RunError
from kit.floors import check_floors
from kit.preflight import Checked, check_disk, check_memory, check_model_and_data, load_config, load_run_config
from kit.runs import signals
from kit.runs.changed import settle_changes
from kit.runs.checkpoints import Checkpoints
from kit.runs.disk import disk_errors
from kit.runs.files import write_text
from kit.runs.folder import RunFolder, StageRecord, open_run
from kit.runs.inputs import changed_inputs, checkpoint_inputs, is_done, stage_inputs
from kit.runs.lock import run_lock
from kit.runs.steps import JUDGE, Step, run_steps

if TYPE_CHECKING:
    from kit.compare.result import Comparison


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its stages by name (`ppo-seed-1` for a repetition), and the comparison."""

    path: Path
    stages: dict[str, StageRecord]

    @property
    def comparison(self) -> "Comparison | None":
        """The comparison, which shows itself in a notebook; None where the stage did not run."""
        from kit.compare.result import Comparison

        return Comparison.load(self.path / "compare") if "compare" in self.stages else None


def run_pipeline(
    config: str | Path | Mapping | Config, overrides: Sequence[str] = (), restart: Sequence[str] = (), **settings: Any
) -> Run:
    """Run the configured stages that are not done yet, in order, and return the run.

    `config` is a YAML path, a mapping or a Config; `overrides` are `key.path=value` texts, `settings` keyword
    overrides (nested mappings or dotted names). A stage that was cut off goes on from its last checkpoint; those in
    `restart` begin again. Raises KitError for everything the user can put right: nothing is written before
    configuration, data and tokenizer have been checked. Raises Interrupted (a KeyboardInterrupt) where it is stopped by
    Ctrl-C or SIGTERM; what was done is kept, and the same call goes on from there.
    """
    check_floors()
    with signals.handled(), disk_errors():
        return _run(load_config(config, overrides, **settings), restart=restart)


def _run(config: Config, config_stays: bool = False, restart: Sequence[str] = ()) -> Run:
    """The run of this configuration, which becomes the folder's config.yaml unless the one there is to stay."""
    folder = RunFolder(config.run_path)
    folder.refuse_strangers()
    _check_restart(config, restart)
    if any(folder.stage(stage) is None for stage in config.stages):
        check_memory(config)
    data, steps = _plan(config, folder)
    if all(is_done(step, config, data.fingerprint, folder) for step in steps):
        for step in steps:
            folder.forget_checkpoints(step.name)
        notices.say(f"{folder.path}: all stages are done; nothing to train")
        return _finished(steps, folder)

    from kit.models.device import few_threads

    with few_threads(config):  # it may have to make the demo's base
        checked = check_model_and_data(config, data)
    for note in checked.notes:
        notices.say(note)
    folder.path.mkdir(parents=True, exist_ok=True)
    with run_lock(folder.path), few_threads(config):
        folder.clear_up()
        for name in restart:
            folder.forget_checkpoints(name)
        settle_changes(steps, config, data.fingerprint, folder)
        undone = [step for step in steps if not is_done(step, config, data.fingerprint, folder)]
        check_disk(config, checked.base.shape, undone, folder)
        folder.create(config.name)
        config = _with_rows_on_disk(config, folder.path / "data")
        if not config_stays:
            write_text(folder.path / "config.yaml", dump_config(config))
        status = "failed"
        try:
            for step in steps:
                _run_step(step, config, data, checked, folder)
            status = "done"
        except KitError as error:
            status = "stopped" if error.exit_code == 3 else "failed"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            folder.close(status)
    return _finished(steps, folder)


def _check_restart(config: Config, restart: Sequence[str]) -> None:
    known = [*config.stages, JUDGE]
    for name in restart:
        if name.partition("-seed-")[0] not in known:
            raise ConfigError(f"restart {name!r}: no stage of this run; it has {', '.join(known)}")


def compare_run(run_dir: Path, overrides: Sequence[str] = ()) -> "Comparison":
    """The comparison of a finished run; made again where the compare settings differ. Trains nothing.

    Raises RunError where `run_dir` is no run folder, or where one of its training stages is not done.
    """
    check_floors()
    folder = open_run(run_dir)
    strange = [text for text in overrides if not text.startswith("compare.")]
    if strange:
        raise ConfigError(f"override `{strange[0]}`: `kit compare` trains nothing, so it takes only compare.* settings")
    config = load_run_config(folder, overrides)
    config = load_config(config, stages=[*config.stages, "compare"])
    data, steps = _plan(config, folder)
    undone = [s.name for s in steps if s.stage != "compare" and not is_done(s, config, data.fingerprint, folder)]
    if undone:
        again = f"kit run {folder.path / 'config.yaml'} {' '.join(overrides)}".strip()
        raise RunError(
            f"{run_dir}: {', '.join(undone)} would have to be trained for this comparison, and `kit compare` trains "
            f"nothing. Run it: {again}"
        )
    with signals.handled(), disk_errors():
        comparison = _run(config, config_stays=True).comparison
    if comparison is None:
        raise RunError(f"{run_dir}: the comparison could not be read back")
    return comparison


def _plan(config: Config, folder: RunFolder) -> tuple[Data, list[Step]]:
    """The data of a run, and its steps."""
    from kit.compare.who_judges import load_run_data

    data = load_run_data(config, folder)
    return data, run_steps(config, with_judge=bool(data.judge))


def _run_step(step: Step, config: Config, data: Data, checked: Checked, folder: RunFolder) -> None:
    """Run one step unless it is done: make it aside, publish it whole, say what it cost and what came out."""
    from transformers import set_seed

    from kit.models.device import peak_memory_bytes, reset_peak_memory
    from kit.models.out_of_memory import memory_errors

    name = step.name
    if is_done(step, config, data.fingerprint, folder):
        folder.note_done(name)
        folder.forget_checkpoints(name)  # a kill right after the stage was done leaves them
        notices.say(f"{name}: done before, kept")
        return
    inputs, before = stage_inputs(step, config, data.fingerprint, folder), folder.stage(name)
    if inputs is None:
        raise RunError(f"{folder.path}: a stage that {name} needs is gone; was the folder changed under way?")
    if before is not None:
        notices.say(f"{name}: runs again, because it changed: {'; '.join(changed_inputs(before.inputs, inputs)[:4])}")

    checkpoint_bytes = check_disk(config, checked.base.shape, [step], folder)
    checkpoints = folder.checkpoints(name, checkpoint_inputs(step, config, data.fingerprint, folder) or inputs)
    checkpoints.facts["checkpoint_bytes"] = checkpoint_bytes  # for the message, should the disk fill up
    work, function = _work(step, config, checked, folder, checkpoints)
    notices.say(f"{name}: {work}")
    folder.start_stage(name)
    place = folder.workplace(name)
    reset_peak_memory()
    set_seed(step.seed)
    try:
        with notices.quiet_libraries(), memory_errors(name):
            result = function(place)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)  # what is worth keeping is in the checkpoints
        raise
    seconds = checkpoints.seconds
    peak = max(checkpoints.before("peak_bytes", 0), peak_memory_bytes() or 0)
    folder.finish_stage(name, place, inputs, seconds, peak, result.metrics)
    notices.say(f"{name}: done in {seconds:.0f} s, peak {peak / 2**30:.2f} GiB; {result.headline}")


def _work(
    step: Step, config: Config, checked: Checked, folder: RunFolder, checkpoints: Checkpoints
) -> tuple[str, Callable[[Path], Any]]:
    """A line that says what the step does, on how much and from where; and the step as a function of its folder."""
    from kit.compare.stage import compare_arms
    from kit.stages.dpo import train_dpo
    from kit.stages.gate import require_good_reward_model
    from kit.stages.online import train_grpo, train_rloo
    from kit.stages.ppo import train_ppo
    from kit.stages.reward import train_reward
    from kit.stages.sft import train_sft

    rows, config = checked.encoded, config.model_copy(update={"seed": step.seed})
    common = (config, rows, checked.base)
    need = {name.partition("-seed-")[0]: record for name in step.needs if (record := folder.stage(name)) is not None}
    at = {stage: record.adapter for stage, record in need.items()}
    pairs, prompts = f"{len(rows.pairs.train):,} pairs", f"{len(rows.prompts.train):,} prompts"
    if step.stage == "sft":
        line = f"imitates {len(rows.sft.train):,} demonstrations, from {config.model.base}"
        return line, lambda out: train_sft(*common, out, checkpoints)
    if step.stage == "reward":
        line = f"learns to score from {pairs}, from SFT"
        return line, lambda out: train_reward(config, rows.pairs, checked.base, out, at["sft"], checkpoints)
    if step.stage == JUDGE:
        line = f"a reward model for the comparison, from SFT, on {len(rows.judge.train):,} pairs that no arm sees"
        return line, lambda out: train_reward(config, rows.judge, checked.base, out, at["sft"], checkpoints)
    if step.stage == "dpo":
        return f"learns from {pairs}, from SFT", lambda out: train_dpo(*common, out, at["sft"], checkpoints)
    if step.stage == "compare":
        steps = {name: record for name in step.needs if (record := folder.stage(name)) is not None}
        line = f"the arms answer up to {config.compare.prompts} held-out prompts each"
        return line, lambda out: compare_arms(*common, out, steps, folder.path / "compare")
    if config.ppo.needs_reward_model or step.stage != "ppo":
        require_good_reward_model(need["reward"].metrics, config.ppo.force)
    episodes = getattr(config, step.stage).episodes
    line = f"{episodes:,} episodes over {prompts}, from SFT, scored by the reward model"
    if step.stage == "ppo":
        return line, lambda out: train_ppo(*common, out, at["sft"], at["reward"], checkpoints)
    train = train_rloo if step.stage == "rloo" else train_grpo
    return line, lambda out: train(*common, out, at["sft"], at["reward"], checkpoints)


def _with_rows_on_disk(config: Config, place: Path) -> Config:
    """The config with rows that were given in memory written to files, so that the run can be repeated from disk."""
    stored = {}
    for name in ("demonstrations", "preferences", "prompts"):
        rows = getattr(config.data, name)
        if (isinstance(rows, list) and not is_source_list(rows)) or hasattr(rows, "column_names"):
            place.mkdir(exist_ok=True)
            lines = [json.dumps(dict(row), ensure_ascii=False, default=str) for row in rows]
            write_text(place / f"{name}.jsonl", "\n".join(lines) + "\n")
            stored[name] = str(place / f"{name}.jsonl")
    return config.model_copy(update={"data": config.data.model_copy(update=stored)})


def _finished(steps: Sequence[Step], folder: RunFolder) -> Run:
    return Run(folder.path, {step.name: record for step in steps if (record := folder.stage(step.name)) is not None})
