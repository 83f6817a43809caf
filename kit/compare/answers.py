"""What each arm answers to the same held-out prompts, decoded alike, and how those answers are scored."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from kit.compare.result import Answer, Arm
from kit.config import Config
from kit.models.base import Base
from kit.models.encoding import EncodedPrompt
from kit.models.generation import sample, score, sequence_kl_nats
from kit.models.roles import Roles, policy_roles

Truth = Callable[[list[dict[str, str]], str], float]


def choose_prompts(prompts: list[EncodedPrompt], count: int, seed: int) -> list[EncodedPrompt]:
    """`count` of the held-out prompts, the same for every arm; which ones depends on the seed and nothing else."""
    return sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}{p.ids}".encode()).digest())[:count]


def answer_all(
    config: Config, base: Base, prompts: list[EncodedPrompt], adapters: dict[str, Path], reward: Path | None,
    costs: dict[str, tuple[float | None, int | None]], truth: Truth | None,
) -> list[Arm]:  # fmt: skip
    """One Arm per adapter, all laid on one base: its answers, their true and proxy rewards, and their KL from SFT.

    `adapters` starts with `sft`, the reference of every KL; `costs` are (seconds, peak bytes) of each arm's training.
    """
    roles = policy_roles(base.causal_lm(), adapters["sft"], trainable=False)
    for name, folder in adapters.items():
        if name != "sft":
            roles.add(name, folder)
    if reward is not None:
        roles.add("reward", reward)
    return [_answer(config, base, roles, name, prompts, costs.get(name, (None, None)), truth) for name in adapters]


def _answer(
    config: Config, base: Base, roles: Roles, name: str, prompts: list[EncodedPrompt],
    cost: tuple[float | None, int | None], truth: Truth | None,
) -> Arm:  # fmt: skip
    role = "policy" if name == "sft" else name
    settings, codec = config.compare, base.codec
    ids = [prompt.ids for prompt in prompts]
    responses = sample(
        roles, role, ids, config.data.max_response_tokens, settings.temperature, config.seed,
        settings.batch_size,
    )  # fmt: skip
    texts = [codec.text(response) for response in responses]
    proxy = score(roles, ids, responses, settings.batch_size) if roles.reward_head is not None else [None] * len(ids)
    kl = (
        [0.0] * len(ids)
        if name == "sft"
        else sequence_kl_nats(roles, role, "policy", ids, responses, settings.batch_size)
    )
    answers = [
        Answer(
            text=text,
            true_reward=None if truth is None else truth(prompt.messages, text),
            proxy_reward=proxy[i],
            kl_nats=kl[i],
            response_tokens=len(response),
            ended=response[-1] in codec.stops,
        )
        for i, (prompt, response, text) in enumerate(zip(prompts, responses, texts, strict=True))
    ]
    return Arm(name, answers, *cost)
