"""What a person sees while a stage trains, and the metrics file it leaves."""

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kit import notices
from kit.errors import TrainingStopped
from kit.models.device import peak_memory_bytes
from kit.runs import signals
from kit.runs.checkpoints import Checkpoints, step_of

_PLAIN_SECONDS = 10  # without a terminal, one line at most this often
_LOST_LINES = 10  # log lines in a row; a gradient scaler skips some steps while it looks for its scale
_UNSAID = {"eval_model_preparation_time"}  # only where an evaluation is the first thing a process does
_SHOWN = {  # the numbers that matter, with the name they are shown by
    "loss": "loss", "mean_token_accuracy": "token accuracy", "accuracy": "accuracy", "rewards/accuracies": "accuracy",
    "rewards/margins": "margin", "objective/scores": "score", "objective/kl": "KL", "lengths/mean": "tokens",
    "eos_rate": "ended",
}  # fmt: skip


class StageProgress(TrainerCallback):
    """A progress bar with the numbers that matter, and one JSON line per log in `metrics.jsonl`."""

    def __init__(self, stage: str, out: Path) -> None:
        self.stage = stage
        self.file = out / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = read_rows(self.file)
        self._told = False
        self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if Console().is_terminal:  # in a notebook a bar is a blank block without ipywidgets; lines always show
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, TextColumn("{task.fields[numbers]}"))
            self._task = self._bar.add_task(self.stage, total=state.max_steps, numbers="")
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Write the log line; show its numbers. Raises TrainingStopped where gradients are no numbers for long."""
        if "train_runtime" in (logs or {}):
            return  # transformers' closing summary; the ledger has the seconds
        row = {"step": state.global_step} | {k: _finite(v) for k, v in (logs or {}).items() if k not in _UNSAID}
        self.rows.append(row)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._stop_if_no_number((logs or {}).get("loss"), args, state)
        self._stop_if_lost(_LOST_LINES, args, state)
        numbers = "  ".join(
            f"{label} {row[key]:.3g}" for key, label in _SHOWN.items() if isinstance(row.get(key), float)
        )
        if self._bar is not None:
            self._bar.update(self._task, numbers=numbers)
        elif numbers and time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            notices.say(f"{self.stage} {state.global_step}/{state.max_steps}  {numbers}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar. Raises TrainingStopped where no gradient was a number: a short run may end before that."""
        self.close()
        self._stop_if_lost(len([row for row in self.rows if "grad_norm" in row]), args, state)

    def _stop_if_no_number(self, loss: Any, args: Any, state: Any) -> None:
        """Raise TrainingStopped on a loss that is no finite number: the step after it spoilt the weights.

        Under fp16 a gradient scaler may have skipped that step, and only lasting trouble stops the run.
        """
        if not isinstance(loss, float) or math.isfinite(loss):
            return
        if args.fp16:
            if not self._told:
                notices.warn(f"{self.stage}, step {state.global_step}: the loss is {loss}; the scaler skips such steps")
            self._told = True
            return
        raise TrainingStopped(
            f"{self.stage} stopped at step {state.global_step}: the loss is {loss}, no finite number. Lower "
            f"{self.stage}.learning_rate"
        )

    def _stop_if_lost(self, lines: int, args: Any, state: Any) -> None:
        """Raise TrainingStopped where the norm of the gradient was no finite number in so many log lines, the last."""
        norms = [row["grad_norm"] for row in self.rows if "grad_norm" in row]
        if lines and norms[-lines:] == [None] * lines:
            raise TrainingStopped(
                f"{self.stage} stopped at step {state.global_step}: the gradient was no finite number in the last "
                f"{lines} log line(s), so nothing is learnt. Lower {self.stage}.learning_rate"
                + ("; or, as float16 may have overflowed, set model.dtype=float32" if args.fp16 else "")
            )

    def close(self) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def train_with_progress(trainer: Any, stage: str, checkpoints: Checkpoints) -> StageProgress:
    """Train to the end, from the newest checkpoint where there is one, with a bar and a log beside the checkpoints.

    Raises Interrupted where the run was asked to end; what was done is then in a checkpoint.
    """
    from transformers import PrinterCallback, ProgressCallback

    begin = checkpoints.newest
    progress = StageProgress(stage, checkpoints.path)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(progress)
    peak = checkpoints.before("peak_bytes", 0)
    trainer.checkpoint_facts = lambda: (
        checkpoints.facts_now() | {"stage": stage, "peak_bytes": max(peak, peak_memory_bytes() or 0)}
    )
    if begin is not None:
        notices.say(f"{stage}: goes on from step {step_of(begin):,}, of which a run that was cut off left a checkpoint")
    try:
        with signals.listening():
            trainer.train(resume_from_checkpoint=str(begin) if begin else None)
    finally:
        progress.close()
    return progress


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def trained_tokens(trainer: Any) -> int:
    """Tokens of prompt and response, padding left out, that SFT, reward model or DPO trained on, over all its steps.

    Those of the sequences whose loss was back-propagated: chosen and rejected are two, each with its prompt. Passes
    without gradients (DPO's reference) do not count. TRL's own count, whose last log line holds the sum.
    """
    return max((int(row["num_tokens"]) for row in trainer.state.log_history if "num_tokens" in row), default=0)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
