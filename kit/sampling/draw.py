"""K answers to each prompt, drawn from one or several policies on one base; near-duplicates are drawn again."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kit import notices
from kit.labels.project import Answer
from kit.models.base import Base
from kit.models.generation import sample
from kit.models.roles import Roles, policy_roles
from kit.sampling.near import Grams, are_near, grams_of
from kit.sampling.sources import Writer

TRIES = 4  # draws for one answer at most; then the item has an answer less
SETTING = "--batch-size"
_ROLE = "sampled"
_SEED_STEP = 1_000_003  # between the random seeds of two draws
_SAY_SECONDS = 10.0  # a line of progress at most this often


@dataclass(frozen=True)
class How:
    """How answers are drawn: `k` a prompt, pure softmax at `temperature`, `batch_size` at once."""

    k: int
    temperature: float
    max_tokens: int
    seed: int
    batch_size: int


@dataclass
class Drawn:
    """answers[i] are those of prompt i, at most k and all different; and how many were drawn in vain."""

    answers: list[list[Answer]]
    near: int = 0  # near-duplicates of an answer that the prompt had already
    empty: int = 0  # no word in them, or a NUL character, which no reader of texts takes
    _grams: list[list[Grams]] = field(default_factory=list, repr=False)

    def take(self, prompt: int, text: str, made: dict) -> bool:
        """Whether the answer was added to its prompt's: it is neither empty nor a near-duplicate."""
        grams, before = grams_of("" if "\0" in text else text), self._grams[prompt]
        self.empty += not grams
        near = bool(grams) and any(are_near(grams, other) for other in before)
        self.near += near
        if not grams or near:
            return False
        before.append(grams)
        self.answers[prompt].append(Answer("", text, made))
        return True


def draw_answers(base: Base, sft: Path, writers: Sequence[Writer], prompts: Sequence[list[int]], how: How) -> Drawn:
    """`how.k` answers to each prompt (its ids), shared out evenly over the writers, who take turns on one base.

    What is empty, or a near-duplicate of what its prompt has already, is drawn again by the same writer, `TRIES` times
    in all. Answers go by a1, a2, ... in an order of chance, so that a name says nothing. `sft` is the adapter that the
    base is loaded with. Raises ModelError, before anything is drawn, for an adapter of another base.
    """
    roles = policy_roles(base.causal_lm(), sft, trainable=False)
    for writer in writers:
        with _laid(roles, writer):
            pass  # a wrong one is found here, not after an hour of another one's answers
    drawn = Drawn([[] for _ in prompts], _grams=[[] for _ in prompts])
    for place, writer in enumerate(writers):
        share = [i for i in range(len(prompts)) for j in range(how.k) if (i * how.k + j) % len(writers) == place]
        with _laid(roles, writer) as role:
            _draw_share(base, roles, role, writer, share, prompts, how, how.seed + place * TRIES * _SEED_STEP, drawn)
    for number, answers in enumerate(drawn.answers):
        random.Random(f"answers {how.seed} {number}").shuffle(answers)
        answers[:] = [Answer(f"a{at}", answer.text, answer.made) for at, answer in enumerate(answers, 1)]
    return drawn


@contextmanager
def _laid(roles: Roles, writer: Writer) -> Iterator[str | None]:
    """The role that the writer's adapter has for the block; None for the base alone."""
    if writer.folder is None:
        yield None
        return
    with roles.borrowed(_ROLE, writer.folder):
        yield _ROLE


def _draw_share(
    base: Base, roles: Roles, role: str | None, writer: Writer, share: list[int], prompts: Sequence[list[int]],
    how: How, seed: int, drawn: Drawn,
) -> None:  # fmt: skip
    """One writer's answers: one for each place in `share`, a prompt's number as often as it is to answer it."""
    for again in range(TRIES):
        if not share:
            return
        what = f"{len(share):,} answers" if not again else f"{len(share):,} again that were empty or near-duplicates"
        notices.say(f"sample: {writer.name} draws {what}")
        seed += _SEED_STEP * bool(again)
        ids = [prompts[i] for i in share]
        found = sample(
            roles, role, ids, how.max_tokens, how.temperature, seed, how.batch_size, SETTING,
            _progress(writer.name, len(share)),
        )  # fmt: skip
        made = {
            "adapter": writer.name, "sha256": writer.sha256, "temperature": how.temperature, "top_p": 1.0, "top_k": 0,
            "max_tokens": how.max_tokens, "seed": seed,
        }  # fmt: skip
        share = [
            i
            for i, response in zip(share, found, strict=True)
            if not drawn.take(
                i,
                base.codec.text(response),
                {**made, "tokens": len(response), "ended": response[-1] in base.codec.stops},
            )
        ]


def _progress(name: str, count: int) -> Callable[[int], None]:
    """Says how many of `count` answers there are, and how long the others may take, every ten seconds at most."""
    began = said = time.monotonic()

    def told(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _SAY_SECONDS and done < count:
            said = now
            notices.say(f"sample: {name} {done:,}/{count:,}, about {(now - began) / done * (count - done):.0f} s left")

    return told
