"""A look at what the policy says: the first responses of each rollout, with their scores, in `completions.jsonl`."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

_PER_ROLLOUT = 8


def forget_samples(folder: Path, rollout: int) -> None:
    """Drop the lines of this rollout and later ones: a resumed run makes them again."""
    file = folder / "completions.jsonl"
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if _rollout(line) < rollout]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _rollout(line: str) -> float:
    """The rollout of a line; infinite where the line was cut off."""
    try:
        return json.loads(line)["rollout"]
    except ValueError:
        return float("inf")


def write_samples(
    folder: Path, rollout: int, prompts: list, completions: list, numbers: dict[str, Tensor], rewards: dict[str, Tensor]
) -> None:
    """Append one JSON line for each of the first responses: prompt, completion, the numbers [b] and rewards [b]."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "completions.jsonl", "a", encoding="utf-8") as file:
        for i, (prompt, completion) in enumerate(zip(prompts[:_PER_ROLLOUT], completions, strict=False)):
            row: dict[str, Any] = {"rollout": rollout, "prompt": prompt, "completion": completion}
            row |= {name: values[i].item() for name, values in numbers.items()}
            row["rewards"] = {name: values[i].item() for name, values in rewards.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
