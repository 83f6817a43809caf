"""The demo world: people ask for three things of a kind, an assistant answers, and what is right is known exactly.

    user:       We are playing a game. Name three animals that live in the sea, please.
    assistant:  Sure! Three of them are whales, crabs and seals.                            truth: 3.3 score units

Everything here is text generated from a seed: nothing is read from a disk, and no model is involved. The facts stand in
`kit.demo.words`, the true reward in `kit.demo.scoring`, those who write and rank answers in `kit.demo.people`.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from kit.demo.people import ANNOTATORS, rank, write_answer
from kit.demo.scoring import kind_of_prompt, truth

__all__ = [
    "corpus",
    "demonstration_rows",
    "is_demo_prompt",
    "preference_rows",
    "prompts",
    "rankings",
    "truth",
    "truth_of_messages",
]

RANKED_PROMPTS = 800  # of these every eighth is ranked by two people, so that agreement can be measured
PAIRS_PER_RANKING = 3
DEMONSTRATIONS = 1_200
CORPUS = 12_000


def prompts(seed: int) -> list[str]:
    """All 1,152 distinct questions of the world, in an order that depends on `seed`."""
    every = list(kind_of_prompt())
    _rng("prompts", seed).shuffle(every)
    return every


def rankings(seed: int) -> list[dict[str, Any]]:
    """What people said: rows of {"prompt", "answers" (4 to 9), "ranks" (1 is best, equals share), "annotator"}.

    Two people who rank the same answers, and both see a difference, agree on 79 to 80 % of the pairs (seeds 0 to 2,
    about 1,700 pairs each; `tests/test_demo_people.py` measures it).
    """
    rng = _rng("rankings", seed)
    rows = []
    for number, prompt in enumerate(prompts(seed)[:RANKED_PROMPTS]):
        wanted = rng.randint(4, 9)
        answers: list[str] = []
        while len(answers) < wanted:
            answer = write_answer(prompt, rng, skill=rng.random())
            if answer not in answers:
                answers.append(answer)
        for annotator in rng.sample(ANNOTATORS, 2 if number % 8 == 0 else 1):
            ranks = rank(prompt, answers, annotator, rng)
            rows.append({"prompt": prompt, "answers": answers, "ranks": ranks, "annotator": annotator.name})
    return rows


def preference_rows(seed: int) -> list[dict[str, Any]]:
    """About 2,600 pairs, up to three per ranking, as conversational rows {"prompt", "chosen", "rejected"}.

    A pair lies at least two ranks apart: what a person finds nearly equal teaches a reward model little but noise.
    """
    rng = _rng("preferences", seed)
    rows = []
    for row in rankings(seed):
        ranked = list(zip(row["answers"], row["ranks"], strict=True))
        pairs = [
            (a, b) if rank_a < rank_b else (b, a)
            for (a, rank_a), (b, rank_b) in combinations(ranked, 2)
            if abs(rank_a - rank_b) >= 2
        ]
        for chosen, rejected in rng.sample(pairs, min(PAIRS_PER_RANKING, len(pairs))):
            prompt = [_message("user", row["prompt"])]
            rows.append(
                {
                    "prompt": prompt,
                    "chosen": [_message("assistant", chosen)],
                    "rejected": [_message("assistant", rejected)],
                }
            )
    return rows


def demonstration_rows(seed: int) -> list[dict[str, Any]]:
    """1,200 answers that people wrote themselves, of all qualities, as rows {"prompt", "completion"}."""
    rng = _rng("demonstrations", seed)
    every = prompts(seed)
    rows = []
    for number in range(DEMONSTRATIONS):
        prompt = every[number % len(every)]
        answer = write_answer(prompt, rng, skill=rng.random())
        rows.append({"prompt": [_message("user", prompt)], "completion": [_message("assistant", answer)]})
    return rows


def corpus(seed: int, size: int = CORPUS) -> list[tuple[str, str]]:
    """`size` pairs (question, answer) of all skills: what the tiny base reads before any fine-tuning."""
    rng = _rng("corpus", seed)
    every = prompts(seed)
    chosen = [rng.choice(every) for _ in range(size)]
    return [(prompt, write_answer(prompt, rng, skill=rng.random())) for prompt in chosen]


def is_demo_prompt(messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether the conversation ends in a question of this world, so that the truth about its answer is known."""
    return bool(messages) and messages[-1]["role"] == "user" and messages[-1]["content"] in kind_of_prompt()


def truth_of_messages(messages: Sequence[Mapping[str, str]], answer: str) -> float:
    """`truth` of an `answer` to a conversation; only its last message counts. Raises DataError as `truth` does."""
    return truth(messages[-1]["content"] if messages else "", answer)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _rng(purpose: str, seed: int) -> random.Random:
    """A source of chance of its own for every purpose: changing one list leaves the others as they are."""
    return random.Random(f"kit demo world, {purpose}, {seed}")
