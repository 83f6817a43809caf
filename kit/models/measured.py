"""What encoding did to the rows of a list: their lengths before anything was cut, and which were cut or dropped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kit.config import DataSettings
from kit.data import catalogue
from kit.data.checks import listed
from kit.data.found import Stops
from kit.data.kept import Numbers
from kit.data.kept import Rows as KeptRows
from kit.errors import DataError

MAX_LONG_PROMPTS_SHARE = 0.05
MAX_CUT_SHARE = 0.3
MAX_EQUAL_AS_USED_SHARE = 0.1


def _none() -> Numbers:
    return np.zeros(0, dtype=np.int32)


@dataclass
class Measured:
    """The rows of one list in tokens. Training rows come first, held-out rows after them."""

    rows: KeptRows
    prompt_tokens: Numbers = field(default_factory=_none)  # of whole prompts, oldest turns included
    response_tokens: dict[str, Numbers] = field(default_factory=dict)  # "chosen", "rejected" or "response"; whole
    places: dict[str, list[str]] = field(default_factory=dict)  # what was done to rows, and where those stand
    encoded: Numbers = field(default_factory=_none)  # the positions of the rows that are used

    def where(self, index: int) -> str:
        """Where an encoded row stands in its source."""
        return self.rows.where(int(self.encoded[index]))

    def notes(self, what: str) -> list[str]:
        """A line for each thing that was done: "pairs: 3 of 10 cut: ..."."""
        return [
            catalogue.COUNTED.format(what=what, count=len(places), all=len(self.rows), reason=reason)
            for reason, places in sorted(self.places.items())
        ]


def at_most(values: Sequence[int] | Numbers, share: float) -> int:
    """The smallest of the values that at least this share of them does not exceed; 0 of none."""
    return int(np.sort(values)[max(0, math.ceil(share * len(values)) - 1)]) if len(values) else 0


def require_lengths(what: str, measured: Measured, settings: DataSettings, stops: Stops) -> None:
    """Raise DataError where the lengths drop more than 5 % of the rows, cut more than 30 %, or make more than 10 % of
    the pairs two equal answers."""
    rows, prompts = len(measured.rows), measured.prompt_tokens
    responses = np.concatenate([_none(), *measured.response_tokens.values()])
    prompt_limit, response_limit = settings.max_prompt_tokens, settings.max_response_tokens
    for text, reason, most, limit, tokens in (
        (catalogue.TOO_MANY_LONG_PROMPTS, catalogue.LAST_TURN_TOO_LONG, MAX_LONG_PROMPTS_SHARE, prompt_limit, prompts),
        (catalogue.TOO_MANY_CUT, catalogue.CUT, MAX_CUT_SHARE, response_limit, responses),
        (catalogue.TOO_MANY_EQUAL_AS_USED, catalogue.EQUAL_AS_USED, MAX_EQUAL_AS_USED_SHARE, response_limit, responses),
    ):
        places = measured.places.get(reason.format(limit=limit), [])
        if len(places) <= most * rows:
            continue
        stop = text.format(
            what=what, count=len(places), all=rows, share=len(places) / rows, limit=limit, most=most,
            p99=at_most(tokens, 0.99), places=listed(list(dict.fromkeys(places))),
        )  # fmt: skip
        with stops.going_on():
            raise DataError(stop)
