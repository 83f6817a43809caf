"""The verdict in a judge's reply: from the probabilities of its first token, else from its text, strictly."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
_CLEAR = 0.5  # share of the first token's probability that the letters must have for the token to be a verdict
_TIE = 1e-9
_BARE = re.compile(r"\W*(?:(?:my |the |final )*(?:answer|verdict|choice)(?: is)?\W+)?(A|B|C|tie)\W*", re.IGNORECASE)
_BRACKETED = re.compile(r"\[\[\s*(A|B|C|tie)\s*\]\]", re.IGNORECASE)


def read_reply(choice: Mapping[str, Any]) -> float | None:
    """1 for A, 0 for B, 0.5 for C or a tie, None for no verdict; of one of the `choices` of a chat completion.

    Servers differ: OpenAI, vLLM, llama.cpp, TGI and newer Ollama give `logprobs.content[0].top_logprobs`; others give
    null, an empty list, an older form, or nothing (ollama/ollama#16117), and then the text decides.
    """
    text = reply_text(choice)
    by_logprobs = None if _is_a_sentence(text) else read_logprobs(_first_token(choice, text))
    return read_text(text) if by_logprobs is None else by_logprobs


def reply_text(choice: Mapping[str, Any]) -> str:
    """What the judge said, without the thoughts that reasoning models may put before it; "" where it said nothing."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, str):
        return ""
    _, ended, said = content.rpartition("</think>")
    return "" if "<think>" in content and not ended else said.strip()


def read_logprobs(top: Iterable[tuple[str, float]]) -> float | None:
    """The likelier of A and B by the (token, log-probability) of the first token; a tie where C beats both.

    "A", " A" and "▁A" are one letter, and their probabilities add up; a letter that is not listed has none. None where
    the letters have less than half of the probability: then the first token is no verdict.
    """
    share = dict.fromkeys(LETTERS, 0.0)
    for token, logprob in top:
        letter = _plain(token)
        if letter in share:
            share[letter] += math.exp(min(logprob, 0.0))
    if sum(share.values()) < _CLEAR:
        return None
    a, b, c = share.values()
    return 0.5 if c > max(a, b) or abs(a - b) <= _TIE else float(a > b)


def read_text(text: str) -> float | None:
    """The verdict of a reply that is nothing but one ("A", "B.", "**A**", "Answer: B", "tie"), or that holds one in
    double brackets ("… [[A]]"). None for everything else, two different verdicts included."""
    found = {letter.upper() for letter in _BRACKETED.findall(text)}
    if not found and (bare := _BARE.fullmatch(text.strip())):
        found = {bare[1].upper()}
    return LETTERS["C" if (one := found.pop()) == "TIE" else one] if len(found) == 1 else None


def _is_a_sentence(text: str) -> bool:
    """Whether a reply that begins with a letter goes on: "A better answer is B" does not choose A."""
    return bool(re.match(r"\W*[ABC]\W+\w", text))


def _first_token(choice: Mapping[str, Any], text: str) -> list[tuple[str, float]]:
    """(token, log-probability) of the likeliest first tokens; empty where the server does not say, or where the reply
    does not begin with the first token, as it was a reasoning model's thought."""
    try:
        first = choice["logprobs"]["content"][0]
        listed = [*(first.get("top_logprobs") or []), first]
        tokens = {entry["token"]: float(entry["logprob"]) for entry in listed}  # the sampled one is listed once
        begun = text.startswith(_plain(first["token"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return []
    return [(token, logprob) for token, logprob in tokens.items() if not math.isnan(logprob)] if begun else []


def _plain(token: str) -> str:
    """The token without white space, also as SentencePiece and byte-level BPE write it."""
    return token.strip(" \n\t▁Ġ")
