"""What reading the sources showed, and what would stop a run: raised at once, or gathered for `kit check`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from kit.data import catalogue
from kit.errors import DataError

# Notes after which a run goes on, and whose cause a person should look at first.
_WARNINGS = (
    catalogue.SIDE_BIAS,
    catalogue.BOTH_WAYS,
    catalogue.MIXED_SCALES,
    catalogue.SCORES_SAY_OPPOSITE,
    catalogue.BAD_ROWS_SKIPPED,
    catalogue.GUESSED_PROMPT,
    catalogue.SPECIAL_TOKEN,
    catalogue.SPECIAL_TOKEN_AS_WORDS,
    catalogue.SPECIAL_TOKEN_SAMPLED,
    catalogue.LAST_TURN_TOO_LONG,
    catalogue.CUT,
    catalogue.EQUAL_AS_USED,
    catalogue.PROMPTS_MEET,
)


class Stops:
    """What would stop a run. The first one raises DataError; with `gather` all are kept, so that one report has them.

    What leaves nothing to go on with raises in either case.
    """

    def __init__(self, gather: bool = False) -> None:
        self.gather = gather
        self.texts: list[str] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Keep the DataError of the block, where stops are gathered."""
        try:
            yield
        except DataError as error:
            if not self.gather:
                raise
            self.texts.append(str(error))

    def nothing_left(self) -> None:
        """Raise what was gathered: there is nothing to go on with."""
        if self.texts:
            raise DataError("\n".join(self.texts))


@dataclass(frozen=True)
class SourceFound:
    """What one source held: rows read, rows kept after cleaning, and where those stand that were not."""

    name: str
    setting: str  # "preferences", "demonstrations" or "prompts"
    form: str
    rows: int  # read, malformed ones not counted
    kept: int  # pairs, demonstrations or prompts
    malformed: int
    dropped: dict[str, list[str]]  # reason -> places
    first_wins: tuple[int, int] | None = None  # (the first shown answer won, verdicts); None: nobody says which it was
    both_ways: list[str] = field(default_factory=list)  # pairs that an earlier pair of the source contradicts
    pairs: int = 0  # of which those are a part: before duplicates were dropped


@cache
def _warning_pattern() -> re.Pattern[str]:
    """Any of the texts of `_WARNINGS`, whatever stands in their fields."""
    texts = ("".join(".*" if n % 2 else re.escape(part) for n, part in enumerate(re.split(r"(\{[^{}]*\})", text)))
             for text in _WARNINGS)  # fmt: skip
    return re.compile("|".join(texts), re.DOTALL)


def is_warning(note: str) -> bool:
    """Whether a note tells of something that a person should look at before training."""
    return bool(_warning_pattern().search(note))
