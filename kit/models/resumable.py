"""Exact resume for transformers' trainers: whole checkpoints, of all that the rest of the training depends on.

In a checkpoint: the adapter that is trained, an ordinary PEFT folder; `critic.safetensors` where there is one; the
optimizer, the schedule, the gradient scaler and the random states as transformers writes them (torch's files, read back
with weights_only=True, and only where the manifest verifies); trainer_state.json; `records.json`, what has been counted
since the last log line; and what the trainer carries besides. There are no pickled arguments.

What transformers 5.23 does by itself, measured: it writes straight into the folder it will read; where optimizer.pt,
scheduler.pt or the random states are missing it goes on with fresh ones, without a word; it never tries the checkpoint
before; and the first log line after a resumption is a mean over fewer steps.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from kit.models.adapters import load_training_state, save_training_state
from kit.runs import signals
from kit.runs.checkpoints import newest_whole, restore_logs, write_checkpoint

_RECORDS = "records.json"
_NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", TRAINER_STATE_NAME, _RECORDS)
_AT_MOST_SECONDS = 600.0  # between two checkpoints


class Resumable:
    """Before a trainer of transformers in a class's bases.

    `train(resume_from_checkpoint=True)` goes on from the newest whole checkpoint of `args.output_dir`. Within
    `kit.runs.signals.listening`, a run that is asked to end saves at the next boundary and raises Interrupted.
    """

    args: Any
    state: Any
    model: Any
    carried: Any = None  # what the trainer carries besides: saves itself to a folder, and loads itself from one
    checkpoint_facts: Callable[[], dict[str, Any]] = dict  # of the run, for the manifest
    _resumed_from: Path | None = None
    _saved_at = 0.0

    @property
    def _steps_per_rollout(self) -> int:
        """Checkpoints fall on multiples of this: in the middle of a rollout there is more to save."""
        return 1

    def train(self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **more: Any) -> Any:
        """Train to the end, from a checkpoint where one is given; what was trained to its end is not trained again."""
        folder = Path(self.args.output_dir)
        if resume_from_checkpoint is True:
            path = newest_whole(folder)
            restore_logs(folder, path)
        else:
            path = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._resumed_from = path
        self._saved_at = time.monotonic()
        if path is not None and self._load_finished(path):
            return None
        keeper = _Keeper(self)
        self.add_callback(keeper)  # type: ignore[attr-defined]
        try:
            result = super().train(str(path) if path else None, *rest, **more)  # type: ignore[misc]
        finally:
            self.remove_callback(keeper)  # type: ignore[attr-defined]
        signals.stop_if_asked()
        return result

    @contextmanager
    def _given_up_if_asked(self) -> Iterator[None]:
        """Work between two steps that changes no weight: it is given up when the run is asked to end, and the
        checkpoint that is written is that of the boundary before it, random states included."""
        before, records, tokens = _random_states(), json.dumps(_records(self)), self.state.num_input_tokens_seen
        try:
            yield
        except signals.AskedToStop:
            _set_random_states(before)
            _put_back(self, json.loads(records))
            self.state.num_input_tokens_seen = tokens
            if self.state.global_step and self.args.save_strategy != "no":
                self._save_checkpoint(None, None)
            raise

    def _load_finished(self, path: Path) -> bool:
        """Load a checkpoint of the last step; False, and nothing loaded, where steps are left."""
        state = TrainerState.load_from_json(str(path / TRAINER_STATE_NAME))
        if not state.max_steps or state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(path))
        self.state = state
        _put_back(self, json.loads((path / _RECORDS).read_text(encoding="utf-8")))  # an evaluation logs them, too
        self._load_rng_state(str(path))  # type: ignore[attr-defined]
        return True

    # --- writing --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A whole checkpoint at a boundary; elsewhere a resumed run would use half a rollout."""
        if self.state.global_step % self._steps_per_rollout:
            raise ValueError("save_steps must be a multiple of num_ppo_epochs x mini-batches per rollout")
        facts = self.checkpoint_facts()
        write_checkpoint(
            Path(self.args.output_dir), self.state.global_step, self._fill, facts, self.args.save_total_limit
        )
        self._saved_at = time.monotonic()

    def _fill(self, folder: Path) -> None:
        self._save(str(folder))
        self._save_optimizer_and_scheduler(str(folder))  # type: ignore[attr-defined]
        self._save_scaler(str(folder))  # type: ignore[attr-defined]
        self._save_rng_state(str(folder))  # type: ignore[attr-defined]
        (folder / _RECORDS).write_text(json.dumps(_records(self)), encoding="utf-8")
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What is trained, and what is carried besides; no pickled arguments."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_training_state(self.model, folder)
        if self.carried is not None:
            self.carried.save(folder)

    # --- reading --------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """What is trained and what is carried. Raises FileNotFoundError where a part of the checkpoint is missing:
        transformers would begin that part anew."""
        folder = Path(resume_from_checkpoint)
        scaler = ("scaler.pt",) if self.accelerator.scaler is not None else ()  # type: ignore[attr-defined]
        missing = [name for name in (*_NEEDED, *scaler) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: {', '.join(missing)} missing; no training can go on from there exactly")
        load_training_state(self.model, folder)
        if self.carried is not None:
            self.carried.load(folder)


class _Keeper(TrainerCallback):
    """Puts back what had been counted since the last log line, and sees to it that a checkpoint is never long ago."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer has just set its counts to nothing."""
        if self.trainer._resumed_from is not None:
            text = (self.trainer._resumed_from / _RECORDS).read_text(encoding="utf-8")
            _put_back(self.trainer, json.loads(text))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save where the last checkpoint is long ago; save and end where the run was asked to."""
        if state.global_step % self.trainer._steps_per_rollout:
            return
        long_ago = time.monotonic() - self.trainer._saved_at > _AT_MOST_SECONDS
        if args.save_strategy != "no" and (long_ago or signals.asked()):
            control.should_save = True
        if signals.asked():
            control.should_training_stop = True


def _records(trainer: Any) -> dict[str, Any]:
    """What transformers and TRL have counted since their last log line, and TRL's count of tokens."""
    found = {
        "loss": trainer._tr_loss.item(),
        "total_loss": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
        "metrics": trainer._metrics["train"],
        "tokens": trainer._total_train_tokens,
    }
    if hasattr(trainer, "_token_sums"):
        found["token_sums"] = trainer._token_sums
    return found


def _put_back(trainer: Any, records: dict[str, Any]) -> None:
    trainer._tr_loss = torch.tensor(records["loss"], device=trainer.args.device)
    trainer._total_loss_scalar, trainer._globalstep_last_logged = records["total_loss"], records["last_logged"]
    trainer._total_train_tokens = records["tokens"]
    trainer._metrics["train"] = defaultdict(list, records["metrics"])
    if "token_sums" in records:
        trainer._token_sums.clear()
        trainer._token_sums.update(records["token_sums"])


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
