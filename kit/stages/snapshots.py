"""Policies kept along the way, from which the comparison draws reward against KL.

<stage>/snapshots/step-000123/    an ordinary PEFT adapter: adapter_model.safetensors and adapter_config.json
"""

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kit.runs.files import publish_folder

_KEPT = {"adapter_model.safetensors", "adapter_config.json"}


class SnapshotCallback(TrainerCallback):
    """Saves the policy at `count` steps, evenly spread over the run, in `folder/snapshots`.

    `every` is the number of steps of a rollout, at whose end a snapshot is taken. Training is not disturbed: weights,
    flags and random state are left as they are. A resumed run keeps the snapshots up to the step it goes on from.
    """

    def __init__(self, folder: Path, count: int, every: int = 1) -> None:
        self.place, self.count, self.every = folder / "snapshots", count, every
        self.steps: list[int] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the steps; remove what a run that was cut off left of later ones."""
        self.steps = snapshot_steps(state.max_steps, self.count, self.every)
        wanted = {_name(step) for step in self.steps if step <= state.global_step}
        for path in self.place.iterdir() if self.place.exists() else ():
            if path.name not in wanted:
                shutil.rmtree(path)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Save the policy where its step has come; the folder appears whole."""
        if state.global_step not in self.steps:
            return
        made_in = self.place / f".{_name(state.global_step)}.tmp"
        model.save_pretrained(made_in, selected_adapters=["default"], save_embedding_layers=False)
        for file in made_in.iterdir():
            if file.name not in _KEPT:
                file.unlink()
        publish_folder(made_in, self.place / _name(state.global_step))


def snapshot_steps(steps: int, count: int, every: int = 1) -> list[int]:
    """At most `count` multiples of `every`, evenly spread between 0 and `steps`, both left out."""
    rollouts = steps // every
    chosen = {round(i * rollouts / (count + 1)) for i in range(1, count + 1)}
    return [rollout * every for rollout in sorted(chosen) if 0 < rollout * every < steps]


def snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots in a stage's folder: optimizer step -> adapter folder, in order; empty where none was kept."""
    found = {path: re.fullmatch(r"step-(\d+)", path.name) for path in (folder / "snapshots").glob("step-*")}
    return dict(sorted((int(name[1]), path) for path, name in found.items() if name))


def _name(step: int) -> str:
    return f"step-{step:06d}"
