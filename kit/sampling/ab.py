"""Blind A/B: two arms' answers to the same held-out prompts, as a project in which people say which is better.

Their judgements are the judge `human` of `kit compare`. An item's `about` says what a vote on it is about, in the words
of a vote (kit.compare.judges.votes): its arms in the order of its answers, the prompt's number in the report, and the
key of the two answers, by which votes on other answers than the comparison's are told.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.judges.people import AB_KEY
from kit.compare.judges.votes import votes_key
from kit.compare.metrics import BASELINE, head_to_heads
from kit.compare.result import Comparison
from kit.config import ab_folder
from kit.errors import ConfigError, DataError, RunError
from kit.labels.project import Answer, Item, Project, create_project, is_project, open_project, repeated
from kit.preflight import load_run_config
from kit.runs.folder import open_run

ARMS = ("ppo", "dpo")
REPEATS = 0.08
SAMPLES_FILE = "samples.jsonl"


def ab_project(
    run_dir: Path | str,
    path: Path | str | None = None,
    arms: Sequence[str] | None = None,
    prompts: int | None = None,
    *,
    per_item: int = 1,
    overlap: float = 0.2,
    repeats: float = REPEATS,
) -> Project:
    """The project in which people choose between two arms' answers; made from the run's comparison, or opened again.

    `path` is by default labels/<run>-ab under the current folder, `arms` PPO and DPO; `prompts` takes the first so many
    of the test prompts, which stand in an order of chance. Equal answers need nobody: they are ties, and no item.
    Raises RunError where the run has no comparison, ConfigError for arms that it does not have, DataError where the
    project that is there asks about other answers.
    """
    folder = open_run(run_dir)
    seed = load_run_config(folder).seed
    comparison = Comparison.load(folder.path / "compare")
    _require_last_policies(comparison.metrics, folder.path)
    pair = _pair(arms, comparison.metrics, folder.path)
    if prompts is not None and prompts < 1:
        raise ConfigError(f"prompts {prompts}: a whole number from 1 up is wanted")
    rows = _rows(comparison.path / SAMPLES_FILE)[:prompts]
    items, equal = _items(rows, pair, seed)
    target = Path(path).expanduser() if path is not None else ab_folder(folder.path.name)
    if target.exists():
        return _same(target, items, folder.path)
    if not items:
        raise DataError(
            f"{folder.path}: {' and '.join(pair)} answer every one of {len(rows):,} prompts alike: all ties"
        )
    about = {"run": str(folder.path), "arms": list(pair), "prompts": len(rows), "equal": equal}
    project = create_project(
        target, repeated(items, repeats, seed), kind="ab", per_item=per_item, overlap=overlap, seed=seed,
        about={AB_KEY: about},
    )  # fmt: skip
    notices.say(str(project))
    if equal:
        notices.say(f"{target}: on {len(equal):,} of {len(rows):,} prompts both answers are equal; those are ties")
    return project


def _pair(arms: Sequence[str] | None, metrics: Mapping[str, Any], run: Path) -> tuple[str, str]:
    """The two arms. Raises ConfigError where the comparison does not hold them, or never lets them meet."""
    wanted = tuple(ARMS if arms is None else arms)
    there = list(metrics["arms"])
    if len(wanted) != 2 or wanted[0] == wanted[1]:
        raise ConfigError(f"arms {', '.join(wanted)}: two different ones are wanted, e.g. ppo,dpo")
    missing = [arm for arm in wanted if arm not in there]
    if missing:
        raise ConfigError(f"{run}: its comparison has no arm {missing[0]!r}; name two of {', '.join(there)}")
    a, b = wanted
    if BASELINE not in wanted and set(wanted) not in map(set, head_to_heads(there)):
        raise ConfigError(f"{run}: its comparison does not compare {a} with {b}; name others of {', '.join(there)}")
    return a, b


def _require_last_policies(metrics: Mapping[str, Any], run: Path) -> None:
    """Raise ConfigError where the answers are of checkpoints that another judge chose: people judge the last ones."""
    if any(arm.get("checkpoint") == "best" for arm in metrics["arms"].values()):
        raise ConfigError(
            f"{run}: its comparison shows the best checkpoints of another judge (compare.checkpoint: best), and people "
            f"judge the last ones. Make it anew: kit compare {run} compare.checkpoint=last"
        )


def _rows(file: Path) -> list[dict[str, Any]]:
    """The test prompts with every arm's answer. Raises RunError where the file cannot be read."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        for row in rows:
            if not all(isinstance(answer["text"], str) for answer in row["arms"].values()):
                raise ValueError("an answer is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({error}). Delete the folder and compare again") from None
    return rows


def _items(rows: Sequence[Mapping[str, Any]], pair: tuple[str, str], seed: int) -> tuple[list[Item], list[int]]:
    """An item for each prompt whose two answers differ, and the numbers of the other prompts.

    Which arm is the first answer is left to chance, so that an order says nothing, also where items are exported.
    """
    items, equal = [], []
    for number, row in enumerate(rows, 1):
        arms = list(pair)
        random.Random(f"ab {seed} {number}").shuffle(arms)
        first, second = (str(row["arms"][arm]["text"]) for arm in arms)
        if first == second:
            equal.append(number)
            continue
        answers = (Answer("a1", first, {"arm": arms[0]}), Answer("a2", second, {"arm": arms[1]}))
        messages = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in row["prompt"]]
        about = {"arms": arms, "prompt": number, "votes_key": votes_key(first, second)}
        items.append(Item(f"p{number:04d}", messages, answers, about=about))
    return items, equal


def _same(target: Path, items: Sequence[Item], run: Path) -> Project:
    """The project that is there already. Raises DataError where it asks about others."""
    if not is_project(target):
        raise DataError(f"{target}: is there already and is no labelling project; name another folder")
    project = open_project(target)
    asked = [item for item in project.items.values() if item.repeat_of is None]
    if [(item.prompt, item.answers, item.about) for item in asked] != [
        (item.prompt, item.answers, item.about) for item in items
    ]:
        raise DataError(
            f"{target}: asks about other answers than those of {run}'s comparison: it was made anew since, or the "
            "project from other arms or prompts. Its judgements stay; name another folder for a new project"
        )
    return project
