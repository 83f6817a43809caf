"""A language model as the judge: behind an OpenAI-compatible server, or loaded on this machine."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from kit import notices
from kit.compare.judges.cache import VerdictCache, question_key
from kit.compare.judges.endpoint import Endpoint, Refused
from kit.compare.judges.pairwise import Question, Verdict, judge_in_both_orders
from kit.compare.judges.reading import read_reply, reply_text
from kit.compare.judges.scores import Arms
from kit.compare.judges.template import load_template, question_text
from kit.compare.verdicts import Verdicts
from kit.data.rows import Message
from kit.errors import ConfigError

NAME = "llm"
_NEWS = 10  # lines of progress in all
_HOPELESS = 20  # invalid replies with no valid one among them after which asking on is a waste


def judge_by_llm(
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
    *,
    model: str,
    base_url: str,
    api_key_env: str = "OPENAI_API_KEY",
    workers: int = 8,
    timeout_seconds: float = 60.0,
    max_retries: int = 4,
    template: str | Path | None = None,
    cache: Path | None = None,
) -> Verdicts:
    """Who won each prompt, by the model at `base_url`, asked in both orders at temperature 0.

    Every verdict is appended to the JSONL file `cache` as it comes, so that what was judged is never asked again. The
    key comes from the environment variable `api_key_env`; a server on this machine needs none.

    Raises ConfigError for a template, address, key or model that is wrong, or where no reply holds a verdict, and
    MachineError for a server that is not there or keeps failing.
    """
    question = load_template(template)
    endpoint = Endpoint(model, base_url, api_key_env, timeout_seconds, max_retries)
    judge = {"model": model, "base_url": endpoint.base_url_shown}
    kept = VerdictCache(cache)

    def ask(questions: list[Question]) -> list[Verdict]:
        keys = [question_key(judge, question, prompts[q.prompt], q) for q in questions]
        todo = {key: q for key, q in zip(keys, questions, strict=True) if key not in kept.verdicts}
        _announce(len(questions), len(todo), f"{model} at {endpoint.base_url_shown}")
        texts = {key: question_text(question, prompts[q.prompt], q.first, q.second) for key, q in todo.items()}
        _ask_all(endpoint, texts, kept, workers)
        return verdicts_or_error([kept.verdicts[key] for key in keys], model)

    description = f"the language model {model}, which compares two answers, asked in both orders"
    return judge_in_both_orders(NAME, description, prompts, answers, pairs, ask)


def verdicts_or_error(verdicts: list[Verdict], model: str) -> list[Verdict]:
    """The verdicts; ConfigError where not one of them is valid."""
    if verdicts and all(verdict is None for verdict in verdicts):
        raise ConfigError(
            f"compare.llm: none of the {len(verdicts):,} replies of {model} holds a verdict. Wanted a single letter, A "
            "or B; use an instruction-tuned model, or check compare.llm.template"
        )
    return verdicts


def _announce(questions: int, calls: int, judge: str) -> None:
    known = f"; {questions - calls:,} verdicts are kept from before" if calls < questions else ""
    notices.say(f"compare: {calls:,} questions to {judge}, each pair of answers in both orders{known}")


def _ask_all(endpoint: Endpoint, texts: Mapping[str, str], kept: VerdictCache, workers: int) -> None:
    """Ask each text, the first alone: a wrong address or key then costs one call and gives one message."""
    progress = _Progress(len(texts))

    def one(key: str) -> None:
        try:
            choice = endpoint.complete(texts[key])
            verdict, said = read_reply(choice), reply_text(choice)
            kept.put(key, verdict, said)
        except Refused as error:
            verdict, said = None, f"({error})"
            kept.put(key, verdict, said, keep=False)
        progress.count(verdict, said, endpoint.model)

    keys = iter(texts)
    for key in keys:
        one(key)
        break
    pool = ThreadPoolExecutor(max(1, workers))
    running: set[Future[None]] = set()
    try:
        for key in keys:
            running.add(pool.submit(one, key))
            if len(running) >= 2 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in running:
            future.result()
    finally:
        endpoint.stopped.set()  # those that wait to try again stop waiting
        pool.shutdown(wait=True, cancel_futures=True)
        endpoint.stopped.clear()


class _Progress:
    """Says now and then how far it is, and stops a judge that never gives a verdict before it costs more."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.valid, self._lock = total, 0, 0, threading.Lock()

    def count(self, verdict: Verdict, said: str, model: str) -> None:
        """Count one reply. Raises ConfigError where the first 20 replies hold no verdict."""
        with self._lock:
            self.done += 1
            self.valid += verdict is not None
            step = max(1, self.total // _NEWS)
            if self.total >= 2 * _NEWS and self.done % step == 0:
                notices.say(f"compare: {self.done:,} of {self.total:,} replies, {self.done - self.valid:,} not valid")
            if self.done >= _HOPELESS and not self.valid:
                raise ConfigError(
                    f"compare.llm: none of the first {self.done} replies of {model} holds a verdict; the last one: "
                    f"{said[:120]!r}. Wanted a single letter, A or B; use an instruction-tuned model, or check "
                    "compare.llm.template"
                )


def check_settings(llm: Any) -> None:
    """Raises ConfigError for a template, address or missing key of `compare.llm` before anything is trained or sent."""
    load_template(llm.template)
    if llm.base_url is not None:
        Endpoint(llm.model, llm.base_url, llm.api_key_env, llm.timeout_seconds, llm.max_retries)


def judge_by_settings(
    llm: Any,
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
    cache: Path | None = None,
) -> Verdicts:
    """The verdicts of the judge that `compare.llm` names: a server where it has a `base_url`, else the local model."""
    if llm.base_url is None:
        from kit.compare.judges.local_llm import judge_by_local_llm

        return judge_by_local_llm(prompts, answers, pairs, model=llm.model, template=llm.template, cache=cache)
    return judge_by_llm(
        prompts, answers, pairs, model=llm.model, base_url=llm.base_url, api_key_env=llm.api_key_env,
        workers=llm.workers, timeout_seconds=llm.timeout_seconds, max_retries=llm.max_retries, template=llm.template,
        cache=cache,
    )  # fmt: skip
