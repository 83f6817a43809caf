"""What each policy answers to the same held-out prompts, decoded alike: sampled once, kept, judged as often as wanted.

A sheet holds one policy's answers to one part of the held-out prompts: `test` decides, `validation` picks checkpoints
and draws curves. Sheets stand in `answers.jsonl`, each under a key of all that made it, so that a comparison with
another judge samples nothing again.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.result import Answer
from kit.config import Config
from kit.demo.world import is_demo_prompt, truth_of_messages
from kit.models.base import Base
from kit.models.encoding import EncodedPrompt
from kit.models.generation import distances, sample, score
from kit.models.roles import Roles, policy_roles
from kit.runs.files import file_sha256, value_sha256, write_text
from kit.runs.folder import ADAPTER_FILE

TEST, VALIDATION = "test", "validation"
BEST_OF_N, LONGEST_OF_N = "best_of_n", "longest_of_n"
CONTROLS = (BEST_OF_N, LONGEST_OF_N)
ANSWERS_FILE = "answers.jsonl"
_DRAW = 1_000_003  # between the random seeds of the controls' draws


@dataclass(frozen=True)
class Policy:
    """An adapter to compare: an arm's last one (`step` None) or a checkpoint on the way, of one training seed."""

    arm: str
    adapter: Path
    seed: int
    step: int | None = None


@dataclass(frozen=True)
class Sheet:
    """answers[i] is a policy's answer to prompt i of its part of the held-out prompts; `key` says what made it."""

    arm: str
    seed: int
    step: int | None
    part: str
    key: str
    answers: list[Answer]


def choose_prompts(prompts: Sequence[EncodedPrompt], count: int, seed: int) -> list[EncodedPrompt]:
    """`count` of the held-out prompts, the same for every arm; which ones depends on the seed and nothing else."""
    return sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}{p.ids}".encode()).digest())[:count]


def choose_parts(config: Config, prompts: Sequence[EncodedPrompt]) -> dict[str, list[EncodedPrompt]]:
    """The held-out prompts that decide, and others (at most a quarter of all) for checkpoints and curves."""
    validation = min(config.compare.validation_prompts, len(prompts) // 4)
    ordered = choose_prompts(prompts, len(prompts), config.seed)
    test = ordered[: min(config.compare.prompts, len(prompts) - validation)]
    return {TEST: test, VALIDATION: ordered[len(ordered) - validation :]}


def bound_nats(n: int) -> float:
    """The KL that the best of n answers has from the policy they were drawn from, at most: log n - (n - 1)/n.

    It holds for whatever the answers are ranked by. Source: Beirami et al. 2024, arXiv:2401.01879.
    """
    return math.log(n) - (n - 1) / n


def answer_all(
    config: Config, base: Base, parts: dict[str, list[EncodedPrompt]], policies: Sequence[tuple[Policy, str]],
    sft: Path, reward: Path | None, kept: Path, unfinished: Path | None = None,
) -> list[Sheet]:  # fmt: skip
    """A sheet for each (policy, part) and for the controls; what `kept` holds under the same key is taken from it.

    Each sheet is added to `unfinished` as soon as it is there: a comparison that is cut off goes on from it. All
    policies take turns on one base. `reward` gives every answer its proxy score; without it there are no controls.
    """
    n = config.compare.best_of
    common = _common_key(config, sft, reward)
    wanted = [  # adapters that are equal to the byte (a critic's warm-up leaves the policy alone) share a key
        (_key(common, part, parts[part], policy.seed, file_sha256(policy.adapter / ADAPTER_FILE)), policy, part)
        for policy, part in policies
    ]
    drawn = CONTROLS if reward is not None and n > 1 else ()
    if drawn and config.compare.temperature == 0:
        notices.say(f"compare: greedy decoding has one answer to a prompt, so there are no {' and '.join(drawn)}")
        drawn = ()
    controls = {_key(common, TEST, parts[TEST], n, arm): arm for arm in drawn}
    before = _read(kept) | (_read(unfinished) if unfinished is not None else {})
    missing = {key: (policy, part) for key, policy, part in wanted if key not in before}
    made: dict[str, list[Answer]] = {}
    if missing or not controls.keys() <= before.keys():
        roles = policy_roles(base.causal_lm(), sft, trainable=False)
        if reward is not None:
            roles.add("reward", reward)
        for key, (policy, part) in missing.items():
            made[key] = _answer(config, base, roles, policy, parts[part])
            _add(unfinished, Sheet(policy.arm, policy.seed, policy.step, part, key, made[key]))
        if not controls.keys() <= before.keys():
            chosen = _best_and_longest(config, base, roles, parts[TEST], n)
            made |= {key: chosen[arm] for key, arm in controls.items()}
            for key, arm in controls.items():
                _add(unfinished, Sheet(arm, config.seed, None, TEST, key, made[key]))
    answers = before | made
    sheets = [Sheet(p.arm, p.seed, p.step, part, key, answers[key]) for key, p, part in wanted]
    return sheets + [Sheet(arm, config.seed, None, TEST, key, answers[key]) for key, arm in controls.items()]


def write_answers(file: Path, sheets: Sequence[Sheet]) -> None:
    """All sheets, one a line: what a later comparison need not sample again."""
    write_text(file, "".join(f"{json.dumps(asdict(sheet), ensure_ascii=False)}\n" for sheet in sheets))


def _read(file: Path) -> dict[str, list[Answer]]:
    """The answers of a file of sheets by key; a line that was cut off, or that nobody can read, is left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, list[Answer]] = {}
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            found[row["key"]] = [Answer(**{**answer, "ids": tuple(answer["ids"])}) for answer in row["answers"]]
    return found


def _add(file: Path | None, sheet: Sheet) -> None:
    """One more sheet, on disk when this returns; a line that a kill cut off does not join with it."""
    if file is None:
        return
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(f"\n{json.dumps(asdict(sheet), ensure_ascii=False)}\n")
        lines.flush()
        os.fsync(lines.fileno())


def _common_key(config: Config, sft: Path, reward: Path | None) -> list[Any]:
    """What decides every sheet: base, reference, proxy, decoding."""
    adapters = [file_sha256(folder / ADAPTER_FILE) for folder in (sft, reward) if folder is not None]
    decoding = [config.compare.temperature, config.compare.batch_size, config.data.max_response_tokens, config.seed]
    return [config.model.model_dump(mode="json"), adapters, decoding]


def _key(common: list[Any], part: str, prompts: Sequence[EncodedPrompt], *own: Any) -> str:
    return value_sha256([common, part, [prompt.ids for prompt in prompts], *own])


def _answer(config: Config, base: Base, roles: Roles, policy: Policy, prompts: Sequence[EncodedPrompt]) -> list[Answer]:
    """The policy's answers; its adapter is laid on the base for as long as that takes."""
    ids, size = [prompt.ids for prompt in prompts], config.compare.batch_size
    role = "policy" if policy.arm == "sft" else "compared"
    with roles.borrowed(role, policy.adapter) if role == "compared" else nullcontext():
        drawn = _draw(config, roles, role, ids, policy.seed)
        apart = distances(roles, role, "policy", ids, drawn, size)
    proxy = score(roles, ids, drawn, size) if roles.reward_head is not None else [None] * len(ids)
    return [
        _graded(base, prompt, response, proxy[i], apart[i].kl_nats, apart[i].entropy_nats)
        for i, (prompt, response) in enumerate(zip(prompts, drawn, strict=True))
    ]


def _best_and_longest(
    config: Config, base: Base, roles: Roles, prompts: Sequence[EncodedPrompt], n: int
) -> dict[str, list[Answer]]:
    """Of n answers that SFT draws to each prompt, the one of the highest proxy score and the one of the most tokens.

    They are other answers than those of the arm `sft`, so that a win against it is never one against itself.
    """
    ids = [prompt.ids for prompt in prompts]
    draws = []
    for at in range(1, n + 1):
        drawn = _draw(config, roles, "policy", ids, config.seed + at * _DRAW)
        proxy = score(roles, ids, drawn, config.compare.batch_size)
        draws.append([_graded(base, *row, None, None) for row in zip(prompts, drawn, proxy, strict=True)])
    by_prompt = list(zip(*draws, strict=True))
    return {
        BEST_OF_N: [max(answers, key=lambda answer: answer.proxy_reward) for answers in by_prompt],
        LONGEST_OF_N: [max(answers, key=lambda answer: answer.response_tokens) for answers in by_prompt],
    }


def _draw(config: Config, roles: Roles, role: str, ids: list[list[int]], seed: int) -> list[list[int]]:
    compare = config.compare
    return sample(roles, role, ids, config.data.max_response_tokens, compare.temperature, seed, compare.batch_size)


def _graded(
    base: Base, prompt: EncodedPrompt, response: list[int], proxy: float | None, kl: float | None, entropy: float | None
) -> Answer:
    """An answer with what is known of it without a judge; the demo world knows the truth about its own questions."""
    text = base.codec.text(response)
    truth = truth_of_messages(prompt.messages, text) if is_demo_prompt(prompt.messages) else None
    return Answer(
        text, truth, proxy, kl, len(response), response[-1] in base.codec.stops, entropy, None, tuple(response)
    )
