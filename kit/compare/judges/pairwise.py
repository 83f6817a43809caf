"""The protocol of every judge that compares two answers: each pair is shown in both orders.

Judges favour a slot: GPT-4 kept its verdict on about 65 % of the pairs once they were swapped (Zheng et al. 2023,
arXiv:2306.05685). So an answer wins only where it wins in both orders.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.compare.judges.bias import rate_over_prompts
from kit.compare.judges.scores import Arms, outcome_facts
from kit.compare.verdicts import Outcomes, Verdicts
from kit.data.rows import Message

Verdict = float | None  # 1 where the first-shown answer won, 0.5 for a tie, 0 where the second won, None if invalid


@dataclass(frozen=True)
class Question:
    """Which of two answers to prompt number `prompt` (from 0) is better, `first` being shown first?"""

    prompt: int
    first: str
    second: str

    @property
    def swapped(self) -> "Question":
        """The same question in the other order."""
        return Question(self.prompt, self.second, self.first)


Ask = Callable[[list[Question]], list[Verdict]]


def judge_in_both_orders(
    name: str,
    description: str,
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
    ask: Ask,
) -> Verdicts:
    """Who won each prompt, by a judge that compares: the winner of both orders; else a tie.

    An invalid verdict in either order leaves the prompt without an outcome: it never becomes a win. Identical texts
    tie without a question, and the same question is asked once though several arms wrote the same answer.
    `ask` gets all questions and returns their verdicts in the same order.

    Facts: `calls` and `invalid` (questions, each order counted), `consistency` (share of the pairs of answers that were
    judged alike in both orders, ties included), `first_slot_rate` with `first_slot_ci95` (how often the first-shown
    answer won, where one did), and those of `outcome_facts`.
    """
    for arm, texts in answers.items():
        if len(texts) != len(prompts):
            raise ValueError(f"arm {arm!r} has {len(texts)} answers to {len(prompts)} prompts")
    questions = list(dict.fromkeys(_questions(answers, pairs)))
    verdicts = dict(zip(questions, ask(questions), strict=True)) if questions else {}
    outcomes = {
        (a, b): [_outcome(verdicts, Question(i, x, y)) for i, (x, y) in _texts(answers, a, b)] for a, b in pairs
    }
    return Verdicts(name, description, outcomes, None, {**_facts(verdicts), **outcome_facts(outcomes)})


def _texts(answers: Mapping[str, Sequence[str]], a: str, b: str) -> Iterator[tuple[int, tuple[str, str]]]:
    return enumerate(zip(answers[a], answers[b], strict=True))


def _questions(answers: Mapping[str, Sequence[str]], pairs: Sequence[Arms]) -> Iterator[Question]:
    for a, b in pairs:
        for i, (x, y) in _texts(answers, a, b):
            if x != y:
                yield Question(i, x, y)
                yield Question(i, y, x)


def _outcome(verdicts: Mapping[Question, Verdict], question: Question) -> float | None:
    if question.first == question.second:
        return 0.5
    one, other = verdicts[question], verdicts[question.swapped]
    if one is None or other is None:
        return None
    return one if one == 1 - other else 0.5


def _facts(verdicts: Mapping[Question, Verdict]) -> dict[str, Any]:
    both = [
        (one, other)
        for question, one in verdicts.items()
        if one is not None and (other := verdicts[question.swapped]) is not None
    ]
    slots: dict[int, Outcomes] = {}
    for question, verdict in verdicts.items():
        if verdict in (0, 1):
            slots.setdefault(question.prompt, []).append(verdict)
    first = rate_over_prompts(slots.values())
    return {
        "calls": len(verdicts),
        "invalid": sum(verdict is None for verdict in verdicts.values()),
        "consistency": sum(one == 1 - other for one, other in both) / len(both) if both else None,
        "first_slot_rate": first["mean"] if first else None,
        "first_slot_ci95": first["ci95"] if first else None,
    }
