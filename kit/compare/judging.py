"""The judge at work: named answers in, verdicts out, whoever judges. Needed once the answers exist."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.compare.judges.functions import check_function, judge_by_function
from kit.compare.judges.llm import check_settings, judge_by_settings
from kit.compare.judges.people import judge_by_people
from kit.compare.judges.scores import judge_by_scores
from kit.compare.judges.votes import judge_by_votes
from kit.compare.result import Answer
from kit.compare.verdicts import Verdicts
from kit.compare.who_judges import FUNCTION, HELD_OUT, HUMAN, LLM, REWARD_MODEL, TRUTH, judge_of
from kit.config import Config
from kit.models.base import Base
from kit.models.encoding import Encoded, EncodedPrompt
from kit.models.generation import score
from kit.models.roles import policy_roles
from kit.runs.folder import StageRecord

Named = Mapping[str, Sequence[Answer]]
Pairs = Sequence[tuple[str, str]]
Judge = Callable[[Sequence[EncodedPrompt], Named, Pairs], Verdicts]
CACHE_FILE = ".verdicts.jsonl"  # in the run folder: what a language model said, so that it is asked once


def check_judge(config: Config, prompts: Sequence[Any]) -> None:
    """Raise KitError for a judge that cannot be had: a function that is not there, a template without its places."""
    who = judge_of(config, prompts)
    if who == FUNCTION:
        check_function(config.compare.judge)
    if who == LLM:
        check_settings(config.compare.llm)


def choose_judge(config: Config, base: Base, data: Encoded, steps: Mapping[str, StageRecord], cache: Path) -> Judge:
    """The judge of this comparison, to be called with prompts, answers by name, and the pairs of names that meet.

    `steps` are the finished training steps; `cache` is the file that keeps what a language model said.
    """
    who = judge_of(config, data.prompts.held_out)
    if who == TRUTH:
        return lambda _, named, pairs: judge_by_scores(
            TRUTH, "the demo world's truth, which knows every answer's worth", _column(named, "true_reward"), pairs
        )
    if who == REWARD_MODEL:
        text = "the reward model that the best-of-n control picks by; no arm was trained on it"
        return lambda _, named, pairs: judge_by_scores(who, text, _column(named, "proxy_reward"), pairs)
    if who == HELD_OUT:
        return _held_out(config, base, steps)

    def judge(prompts: Sequence[EncodedPrompt], named: Named, pairs: Pairs) -> Verdicts:
        messages = [prompt.messages for prompt in prompts]
        texts = {name: [answer.text for answer in answers] for name, answers in named.items()}
        if who == FUNCTION:
            return judge_by_function(config.compare.judge, messages, texts, pairs)
        if who == LLM:
            return judge_by_settings(config.compare.llm, messages, texts, pairs, cache)
        if who == HUMAN:
            assert config.people is not None
            return judge_by_people(config.people, config.run_path, messages, texts, pairs)
        return judge_by_votes(config.compare.judge, messages, texts, pairs)

    return judge


def judges_checkpoints(config: Config) -> bool:
    """Whether the judge can be asked about further answers: people voted on those they were shown, no others."""
    return config.people is None and not config.compare.judge.endswith((".jsonl", ".csv"))


def _held_out(config: Config, base: Base, steps: Mapping[str, StageRecord]) -> Judge:
    """The reward model that was trained on pairs of its own; it scores all answers in one go on a base of its own."""
    record = steps["judge"]
    gate = record.metrics.get("gate") or {}
    facts = {"accuracy": gate.get("accuracy") and {**gate["accuracy"], "pairs": record.metrics.get("pairs")}}

    def judge(prompts: Sequence[EncodedPrompt], named: Named, pairs: Pairs) -> Verdicts:
        roles = policy_roles(base.causal_lm(), steps["sft"].adapter, trainable=False)
        roles.add("reward", record.adapter)
        ids = [prompt.ids for prompt in prompts]
        scores = {
            name: score(roles, ids, [list(answer.ids) for answer in answers], config.compare.batch_size)
            for name, answers in named.items()
        }
        text = (
            f"a reward model that learnt from {record.metrics['rows']:,} pairs that no arm saw; it shares the base "
            "model with the arms, and perhaps its blind spots"
        )
        return judge_by_scores(HELD_OUT, text, scores, pairs, facts)

    return judge


def _column(named: Named, field: str) -> dict[str, list[float | None]]:
    return {name: [getattr(answer, field) for answer in answers] for name, answers in named.items()}
