"""From the data of a run and its tokens to the findings."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain

from kit.config import Config, DataSettings
from kit.data import Data, catalogue
from kit.data.cycles import search_of_new
from kit.data.found import Stops, is_warning
from kit.data.rows import Message, Split, messages_of, prompt_keys
from kit.findings.findings import EndOfTurn, Findings, Lengths, Limit, PairFacts, Share, Sizes, Turns
from kit.findings.samples import samples_of
from kit.models.base import Base
from kit.models.codec import Codec
from kit.models.encoding import Encoded
from kit.models.id_rows import Glance, glances
from kit.models.measured import at_most

LENGTH_TELLS = 0.8  # share of pairs, or 1 less it, in which the longer answer is the chosen one
_BINS = 32
_CANDIDATES = 5  # other limits that are shown


@search_of_new()
def findings_of(
    config: Config, data: Data, encoded: Encoded, base: Base, stops: Stops, steps: dict[str, bool], folder: str
) -> Findings:
    """The findings on a run that has not begun; `stops` holds what would stop it."""
    pairs = _pairs(data, encoded, config.data) if data.pairs.train else None
    turns = _turns(data, encoded)
    notes = [*data.notes, *encoded.notes]
    warnings = [note for note in notes if is_warning(note)]
    if turns.meet_as_used:
        many, limit = len(turns.meet_as_used), config.data.max_prompt_tokens
        text = catalogue.PROMPTS_MEET.format(
            count=many, all=turns.held_out, s="s" if many == 1 else "", limit=limit, first=turns.meet_as_used[0]
        )
        warnings.append(text)
    if pairs is not None:
        warnings += _length_tells(pairs)
    return Findings(
        name=config.name,
        base=config.model.base,
        precision=str(base.precision),
        stops=list(stops.texts),
        warnings=warnings,
        notes=notes,
        sources=list(data.sources),
        sizes=_sizes(encoded),
        lengths=_lengths(encoded, config.data),
        limits=_limits(encoded, config.data),
        pairs=pairs,
        turns=turns,
        end_of_turn=_end_of_turn(encoded, base.codec),
        samples=samples_of(encoded, base.codec),
        steps=steps,
        run_folder=folder,
    )  # fmt: skip


def longer_wins(pairs: Iterable[Glance]) -> Share:
    """How often the answer with more tokens was chosen, a tie counting half: the gate's baseline, on its own rows."""
    differences = [len(chosen) - len(rejected) for _, (chosen, rejected) in pairs]
    won = sum((d > 0) + 0.5 * (d == 0) for d in differences)
    return Share(won / len(differences) if differences else None, len(differences))


def _sizes(encoded: Encoded) -> list[Sizes]:
    lists: list[tuple[str, Split]] = [
        ("demonstrations", encoded.sft),
        ("pairs", encoded.pairs),
        ("prompts", encoded.prompts),
    ]
    found = [Sizes(what, len(rows.train), len(rows.held_out), encoded.measured[what].places) for what, rows in lists]
    judge = "the judge's pairs"
    found.append(Sizes(judge, len(encoded.judge.train), 0, encoded.measured[judge].places))
    return [sizes for sizes in found if sizes.train]


def _lengths(encoded: Encoded, settings: DataSettings) -> list[Lengths]:
    return [
        _lengths_of(
            what, part, tokens, settings.max_prompt_tokens if part == "prompt" else settings.max_response_tokens
        )
        for what in ("demonstrations", "pairs", "prompts")
        for part, tokens in {
            "prompt": encoded.measured[what].prompt_tokens,
            **encoded.measured[what].response_tokens,
        }.items()
        if tokens
    ]


def _lengths_of(what: str, part: str, tokens: Sequence[int], limit: int) -> Lengths:
    step = math.ceil((max(tokens) + 1) / _BINS)
    counts = Counter(count // step for count in tokens)
    p50, p95, p99 = (at_most(tokens, share) for share in (0.5, 0.95, 0.99))
    over = sum(count > limit for count in tokens)
    histogram = [counts[n] for n in range(max(counts) + 1)]
    return Lengths(
        what, part, len(tokens), min(tokens), p50, p95, p99, max(tokens), limit, over, histogram, histogram_step=step
    )


def _limits(encoded: Encoded, settings: DataSettings) -> list[Limit]:
    measured = [encoded.measured[what] for what in ("demonstrations", "pairs", "prompts") if what in encoded.measured]
    prompts = [count for one in measured for count in one.prompt_tokens]
    responses = [count for one in measured for side in one.response_tokens.values() for count in side]
    return [
        Limit(name, limit, len(tokens), at_most(tokens, 0.99), _effects(tokens, limit))
        for name, limit, tokens in (
            ("max_prompt_tokens", settings.max_prompt_tokens, prompts),
            ("max_response_tokens", settings.max_response_tokens, responses),
        )
        if tokens
    ]


def _effects(tokens: Sequence[int], limit: int) -> list[tuple[int, float]]:
    """The share of texts over each power of two up to the longest text, and over the limit that is set."""
    powers = [2**n for n in range(3, 3 + max(1, (max(tokens) - 1).bit_length() - 2))]
    limits = sorted({limit, *powers[-_CANDIDATES:]})
    return [(one, sum(count > one for count in tokens) / len(tokens)) for one in limits]


def _pairs(data: Data, encoded: Encoded, settings: DataSettings) -> PairFacts:
    sources = [source for source in data.sources if source.setting == "preferences"]
    shown = [source.first_wins for source in sources if source.first_wins is not None]
    verdicts = sum(total for _, total in shown)
    both_ways = [place for source in sources for place in source.both_ways]
    measured = encoded.measured["pairs"]

    def dropped(reason: str) -> list[str]:
        return [place for source in sources for place in source.dropped.get(reason, [])]

    return PairFacts(
        longer_wins=longer_wins(glances(encoded.pairs.held_out)),
        longer_wins_train=longer_wins(glances(encoded.pairs.train)),
        first_wins=Share(sum(first for first, _ in shown) / verdicts, verdicts) if verdicts else None,
        both_ways=both_ways,
        both_ways_share=len(both_ways) / (sum(source.pairs for source in sources) or 1),
        equal=dropped(catalogue.EQUAL),
        equal_as_used=measured.places.get(catalogue.EQUAL_AS_USED, []),
        duplicates=dropped(catalogue.DUPLICATE),
    )


def _length_tells(pairs: PairFacts) -> list[str]:
    both = [one for one in (pairs.longer_wins, pairs.longer_wins_train) if one.share is not None]
    cases = sum(one.cases for one in both)
    share = sum((one.share or 0) * one.cases for one in both) / cases if cases else 0.5
    if 1 - LENGTH_TELLS <= share <= LENGTH_TELLS:
        return []
    which, share = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
    return [catalogue.LENGTH_TELLS.format(share=share, pairs=cases, which=which)]


def _turns(data: Data, encoded: Encoded) -> Turns:
    once: dict[str, list[Message]] = {}
    sides: dict[str, set[str]] = {"train": set(), "held_out": set()}
    for side, keys in sides.items():
        for rows in (getattr(split, side) for split in (data.demonstrations, data.pairs, data.prompts)):
            for key, row in zip(prompt_keys(rows, data.keys), rows, strict=True):
                once.setdefault(key, messages_of(row))
                keys.add(key)
    by_turns = Counter(sum(message["role"] != "system" for message in messages) for messages in once.values())
    meeting, prompts = _meeting(encoded)
    return Turns(
        conversations=len(once),
        with_system=sum(messages[0]["role"] == "system" for messages in once.values()),
        by_turns=dict(sorted(by_turns.items())),
        on_both_sides=len(sides["train"] & sides["held_out"]),
        meet_as_used=meeting,
        held_out=prompts,
    )


def _meeting(encoded: Encoded) -> tuple[list[str], int]:
    """Places of held-out prompts whose tokens, as they are used, stand in training too; and held-out prompts in all."""
    train: set[bytes] = set()
    held_out: dict[bytes, str] = {}
    for what, split in (("demonstrations", encoded.sft), ("pairs", encoded.pairs), ("prompts", encoded.prompts)):
        train.update(_digest(row.prompt) for row in glances(split.train))
        places = encoded.measured[what].kept[len(split.train) :]
        for row, where in zip(glances(split.held_out), places, strict=True):
            held_out.setdefault(_digest(row.prompt), where)
    return [where for ids, where in held_out.items() if ids in train], len(held_out)


def _digest(ids: memoryview) -> bytes:
    """Stands for a sequence of ids, at a fiftieth of its size."""
    return blake2b(ids, digest_size=16).digest()


def _end_of_turn(encoded: Encoded, codec: Codec) -> EndOfTurn:
    """Looked up in the very ids that the trainers' rows are made of, not in how those were made."""
    bos, ends, doubled = codec.tokenizer.bos_token_id, [], 0
    for split in (encoded.sft, encoded.pairs):
        for prompt, answers in chain(glances(split.train), glances(split.held_out)):
            doubled += len(prompt) > 1 and prompt[0] == bos == prompt[1]
            ends += [answer[-1] in codec.stops for answer in answers]
    return EndOfTurn(
        token=codec.tokenizer.decode([codec.end_of_turn]),
        answers=len(ends),
        learnt=sum(ends),
        cut=len(ends) - sum(ends),
        doubled_bos=doubled,
    )
