"""The answers as readers see them: samples.jsonl, and samples side by side whose arms are hidden until revealed."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from kit.compare.judges.votes import votes_key
from kit.compare.report.text import HIDDEN, UNKNOWN, label, number, visible
from kit.compare.result import Answer, Arm, finite

Message = Mapping[str, Any]

SAMPLES_IN_PAGE, SAMPLES_IN_TEXT = 20, 5
_LONG = 900  # characters from which an answer scrolls in the page
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def chosen(prompts: int, most: int = SAMPLES_IN_PAGE) -> list[int]:
    """At most `most` prompts, spread evenly over all, so that nobody picked them."""
    return sorted({at * prompts // most for at in range(most)}) if prompts > most else list(range(prompts))


def blind_sample(
    prompt: Sequence[Message], arms: Sequence[Arm], at: int, metrics: Mapping[str, Any], series: Mapping[str, int]
) -> dict[str, Any]:
    """Prompt `at` with every arm's answer, as the page shows it.

    The answers go by A, B, C in an order that the comparison's seed and the prompt fix, another one for each prompt.
    `vote` holds what a vote between PPO and DPO needs, None where one of the two is missing.
    """
    shuffled = list(arms)
    random.Random(f"{metrics.get('seed', 0)}:{at}").shuffle(shuffled)
    letters = {arm.name: _letter(place) for place, arm in enumerate(shuffled)}
    scores = {arm.name: _judged(arm.answers[at], metrics["judge"]) for arm in arms}
    known = [score for score in scores.values() if score is not None]
    messages = messages_of(prompt)
    return {
        "number": at + 1,
        "summary": " ".join(messages[-1][1].split())[:140] if messages else "",
        "messages": messages,
        "answers": [
            {
                "arm": label(arm.name),
                "letter": letters[arm.name],
                "series": series[arm.name],
                "text": visible(arm.answers[at].text),
                "long": len(arm.answers[at].text) > _LONG or arm.answers[at].text.count("\n") > 16,
                "scores": scores_of(arm.answers[at]),
                "best": len(known) > 1 and scores[arm.name] == max(known) and known.count(max(known)) == 1,
                "ended": arm.answers[at].ended,
            }
            for arm in shuffled
        ],
        "vote": _vote({arm.name: arm.answers[at].text for arm in arms}, letters),
    }


def _vote(texts: Mapping[str, str], letters: Mapping[str, str]) -> dict[str, Any] | None:
    if not {"ppo", "dpo"} <= texts.keys():
        return None
    options = sorted((letters[name], name) for name in ("ppo", "dpo"))
    return {"options": options, "answers": votes_key(texts["ppo"], texts["dpo"])}


def _letter(place: int) -> str:
    """A, B ... Z, then A1, B1 ..."""
    turn, at = divmod(place, len(_LETTERS))
    return _LETTERS[at] + (str(turn) if turn else "")


def _judged(answer: Answer, judge: str) -> float | None:
    """The judge's score of one answer; None where it judges pairs only."""
    return finite({"truth": answer.true_reward, "reward_model": answer.proxy_reward}.get(judge, answer.judge_score))


def scores_of(answer: Answer) -> list[tuple[str, str]]:
    """What is known of one answer, as name and text."""
    scores = {"true": answer.true_reward, "judge": answer.judge_score, "proxy": answer.proxy_reward}
    found = [(name, number(value)) for name, score in scores.items() if (value := finite(score)) is not None]
    kl = finite(answer.kl_nats)
    return [*found, ("KL", UNKNOWN if kl is None else number(kl, 1)), ("tokens", str(answer.response_tokens))]


def messages_of(prompt: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, visible text) of each message; content may be text or a list of parts."""
    return [(visible(str(message.get("role", ""))), visible(_content(message.get("content")))) for message in prompt]


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)


def sample_line(prompt: Sequence[Message], arms: Sequence[Arm], at: int) -> str:
    """One line of samples.jsonl: nothing is lost, hidden characters stand as escapes, no number is NaN."""
    answers = {
        arm.name: {
            "text": arm.answers[at].text,
            "true_reward": finite(arm.answers[at].true_reward),
            "judge_score": finite(arm.answers[at].judge_score),
            "proxy_reward": finite(arm.answers[at].proxy_reward),
            "kl_nats": finite(arm.answers[at].kl_nats),
            "entropy_nats": finite(arm.answers[at].entropy_nats),
            "response_tokens": arm.answers[at].response_tokens,
            "ended": arm.answers[at].ended,
        }
        for arm in arms
    }
    line = json.dumps({"prompt": list(prompt), "arms": answers}, ensure_ascii=False, allow_nan=False)
    return HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], line)
