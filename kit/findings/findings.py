"""What `kit check` found: plain facts, computed once, shown in a terminal, as JSON, as a page and in a notebook."""

from dataclasses import asdict, dataclass
from typing import Any

from kit.data.found import SourceFound


@dataclass(frozen=True)
class Sizes:
    """The rows of one list that are used, after all that was dropped."""

    what: str  # "pairs", "demonstrations", "prompts" or "the judge's pairs"
    train: int
    held_out: int
    dropped: dict[str, list[str]]  # by the tokenizer and the lengths: reason -> places; some are cut, not dropped


@dataclass(frozen=True)
class Lengths:
    """Tokens of one part of the rows, before anything was cut."""

    what: str  # "pairs", "demonstrations" or "prompts"
    part: str  # "prompt", "response", "chosen" or "rejected"
    texts: int
    min: int
    p50: int
    p95: int
    p99: int
    max: int
    limit: int
    over: int  # texts longer than the limit
    histogram: list[int]  # texts of 0 tokens and more, of one step and more, of two, ...
    histogram_step: int  # tokens


@dataclass(frozen=True)
class Limit:
    """What a setting of length does, and what others would do."""

    setting: str  # "max_prompt_tokens" or "max_response_tokens"
    limit: int
    texts: int
    fits_99: int  # 99 % of the texts have at most so many tokens
    over: list[tuple[int, float]]  # (limit, share of the texts that are longer), the configured limit among them


@dataclass(frozen=True)
class Share:
    """A share of some cases; None where there are none."""

    share: float | None
    cases: int


@dataclass(frozen=True)
class PairFacts:
    """What is to be known of the pairs before a reward model learns from them."""

    longer_wins: Share  # of the held-out pairs, by tokens as they are used, ties half: what a reward model has to beat
    longer_wins_train: Share
    first_wins: Share | None  # of verdicts; None where no source says which answer was shown first
    both_ways: list[str]  # places of pairs that an earlier pair contradicts
    both_ways_share: float
    equal: list[str]  # places of pairs of two equal answers
    equal_as_used: list[str]  # equal after they were cut
    duplicates: list[str]


@dataclass(frozen=True)
class Turns:
    """The conversations that are learnt from, each prompt once."""

    conversations: int
    with_system: int
    by_turns: dict[int, int]  # turns of user and assistant, of which the last is the user's -> conversations
    on_both_sides: (
        int  # prompts of the training rows that are held out too, by their words: none, or the split is wrong
    )
    meet_as_used: list[str]  # held-out prompts that stand in training too once both were shortened to fit
    held_out: int


@dataclass(frozen=True)
class EndOfTurn:
    """Whether the token that ends an answer is learnt."""

    token: str
    answers: int
    learnt: int  # answers whose last learnt token ends a turn; the others were cut
    cut: int
    doubled_bos: int  # sequences that begin with two BOS tokens


@dataclass(frozen=True)
class Piece:
    """A token as a person reads it; bytes of one character that several tokens share stand in one piece."""

    text: str
    learnt: bool
    ends: bool = False  # it ends a turn, and is learnt
    left_out: int = 0  # so many tokens are not shown here


@dataclass(frozen=True)
class Sample:
    """A training row, decoded token by token."""

    title: str
    where: str
    parts: list[tuple[str, list[Piece]]]  # ("chosen", its tokens); the first part begins with the prompt


@dataclass(frozen=True)
class Findings:
    """Everything `kit check` found. `ok` says whether a run would start; `stops` say why not.

    It shows itself in a notebook; `as_dict()` is what `kit check --json` prints, `html()` the page.
    """

    name: str
    base: str
    precision: str
    stops: list[str]
    warnings: list[str]
    notes: list[str]
    sources: list[SourceFound]
    sizes: list[Sizes]
    lengths: list[Lengths]
    limits: list[Limit]
    pairs: PairFacts | None
    turns: Turns
    end_of_turn: EndOfTurn
    samples: list[Sample]
    steps: dict[str, bool]  # stage -> it would run; False: it is done and would be kept
    run_folder: str

    @property
    def ok(self) -> bool:
        """Whether nothing stops a run."""
        return not self.stops

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; docs/data.md has the keys."""
        return {"ok": self.ok} | asdict(self)

    def html(self) -> str:
        """The page, self-contained."""
        from kit.findings.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from kit.findings.page import notebook

        return notebook(self)

    def lines(self) -> list[str]:
        """The facts in short, a line each, the verdict last."""
        steps = (
            []
            if self.stops
            else [f"{name}: {'would run' if runs else 'done, would be kept'}" for name, runs in self.steps.items()]
        )
        base = f"base: {self.base}, {self.precision}"
        return [*self.notes, base, *self.prompt_line(), *steps, f"run folder: {self.run_folder}", self.verdict()]

    def prompt_line(self) -> list[str]:
        """The line on the lengths of the prompts."""
        rows = [one for one in self.lengths if one.what == "prompts"]
        return [f"prompts: {one.min} to {one.max} tokens, median {one.p50}" for one in rows]

    def verdict(self) -> str:
        """The last line: all good, or how many things stop a run."""
        many = len(self.stops)
        return "all good" if self.ok else f"{many} thing{'s'[: many > 1]} would stop this run"
