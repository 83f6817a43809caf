"""From the data of a run and its tokens to the findings."""

import math
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from kit.config import Config, DataSettings
from kit.data import Data, catalogue
from kit.data.cycles import search_of_new
from kit.data.found import Stops, is_warning
from kit.data.kept import KeptSplit, Numbers, first_of, repeated
from kit.data.rows import Split
from kit.findings.findings import EndOfTurn, Findings, Lengths, Limit, PairFacts, Share, Sizes, Turns
from kit.findings.samples import samples_of
from kit.models.base import Base
from kit.models.codec import Codec
from kit.models.encoding import Encoded
from kit.models.id_rows import sequences
from kit.models.measured import at_most

LENGTH_TELLS = 0.8  # share of pairs, or 1 less it, in which the longer answer is the chosen one
_BINS = 32
_SIDES = ("train", "held_out")
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


def longer_wins(chosen: NDArray[np.int64], rejected: NDArray[np.int64]) -> Share:
    """How often the answer with more tokens was chosen, a tie counting half: the gate's baseline, on its own rows."""
    won = float(np.sum(chosen > rejected) + 0.5 * np.sum(chosen == rejected))
    return Share(won / len(chosen) if len(chosen) else None, len(chosen))


def _longer_wins(pairs: Sequence) -> Share:
    (store, chosen), (_, rejected) = sequences(pairs, 1), sequences(pairs, 2)
    lengths = store.lengths()
    return longer_wins(lengths[chosen], lengths[rejected])


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
        if len(tokens)
    ]


def _lengths_of(what: str, part: str, tokens: Numbers, limit: int) -> Lengths:
    least, most = int(tokens.min()), int(tokens.max())
    step = math.ceil((most + 1) / _BINS)
    p50, p95, p99 = (at_most(tokens, share) for share in (0.5, 0.95, 0.99))
    over = int(np.sum(tokens > limit))
    histogram = np.bincount(tokens // step).tolist()
    return Lengths(what, part, len(tokens), least, p50, p95, p99, most, limit, over, histogram, histogram_step=step)


def _limits(encoded: Encoded, settings: DataSettings) -> list[Limit]:
    measured = [encoded.measured[what] for what in ("demonstrations", "pairs", "prompts") if what in encoded.measured]
    none = np.zeros(0, dtype=np.int32)
    prompts = np.concatenate([none, *(one.prompt_tokens for one in measured)])
    responses = np.concatenate([none, *(side for one in measured for side in one.response_tokens.values())])
    return [
        Limit(name, limit, len(tokens), at_most(tokens, 0.99), _effects(tokens, limit))
        for name, limit, tokens in (
            ("max_prompt_tokens", settings.max_prompt_tokens, prompts),
            ("max_response_tokens", settings.max_response_tokens, responses),
        )
        if len(tokens)
    ]


def _effects(tokens: Numbers, limit: int) -> list[tuple[int, float]]:
    """The share of texts over each power of two up to the longest text, and over the limit that is set."""
    powers = [2**n for n in range(3, 3 + max(1, (int(tokens.max()) - 1).bit_length() - 2))]
    limits = sorted({limit, *powers[-_CANDIDATES:]})
    return [(one, int(np.sum(tokens > one)) / len(tokens)) for one in limits]


def _pairs(data: Data, encoded: Encoded, settings: DataSettings) -> PairFacts:
    sources = [source for source in data.sources if source.setting == "preferences"]
    shown = [source.first_wins for source in sources if source.first_wins is not None]
    verdicts = sum(total for _, total in shown)
    both_ways = [place for source in sources for place in source.both_ways]
    measured = encoded.measured["pairs"]

    def dropped(reason: str) -> list[str]:
        return [place for source in sources for place in source.dropped.get(reason, [])]

    return PairFacts(
        longer_wins=_longer_wins(encoded.pairs.held_out),
        longer_wins_train=_longer_wins(encoded.pairs.train),
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
    splits: list[KeptSplit] = [data.demonstrations, data.pairs, data.prompts]
    train, held_out = (
        np.unique(np.concatenate([getattr(split, side).same_prompts() for split in splits]))
        for side in ("train", "held_out")
    )
    with_system, by_turns = 0, Counter[int]()
    once = np.union1d(train, held_out)
    for messages in map(data.pairs.train.kept.messages, map(int, once)):
        with_system += messages[0]["role"] == "system"
        by_turns[sum(message["role"] != "system" for message in messages)] += 1
    meeting, prompts = _meeting(encoded)
    return Turns(
        conversations=len(once),
        with_system=with_system,
        by_turns=dict(sorted(by_turns.items())),
        on_both_sides=len(np.intersect1d(train, held_out)),
        meet_as_used=meeting,
        held_out=prompts,
    )


def _meeting(encoded: Encoded) -> tuple[list[str], int]:
    """Places of held-out prompts whose tokens, as they are used, stand in training too; and held-out prompts in all."""
    lists: dict[str, Split] = {"demonstrations": encoded.sft, "pairs": encoded.pairs, "prompts": encoded.prompts}
    store = sequences(encoded.sft.train, 0)[0]
    sides = [np.concatenate([sequences(getattr(split, side), 0)[1] for split in lists.values()]) for side in _SIDES]
    every, which = np.unique(np.concatenate(sides), return_inverse=True)
    digests = b"".join(blake2b(store.look(int(number)), digest_size=16).digest() for number in every)
    same = first_of(np.frombuffer(digests, dtype=np.dtype((np.void, 16))))[which]
    train, held_out = np.split(same, [len(sides[0])])
    first = ~repeated(held_out)
    meeting = np.flatnonzero(first & np.isin(held_out, train))
    ends = np.cumsum([len(split.held_out) for split in lists.values()])
    places = []
    for at in map(int, meeting):
        n = int(np.searchsorted(ends, at, side="right"))
        what, split = [*lists.items()][n]
        places.append(encoded.measured[what].where(len(split.train) + at - int(ends[n] - len(split.held_out))))
    return places, int(first.sum())


def _end_of_turn(encoded: Encoded, codec: Codec) -> EndOfTurn:
    """Looked up in the very ids that the trainers' rows are made of, not in how those were made."""
    store = sequences(encoded.sft.train, 0)[0]
    bos = codec.tokenizer.bos_token_id
    ends, doubled = np.zeros(len(store), dtype=bool), np.zeros(len(store), dtype=bool)
    for number in range(len(store)):
        ids = store.look(number)
        ends[number] = len(ids) > 0 and ids[-1] in codec.stops
        doubled[number] = len(ids) > 1 and ids[0] == bos == ids[1]
    rows = [(split, side) for split in (encoded.sft, encoded.pairs) for side in (split.train, split.held_out)]
    answers = [sequences(side, n)[1] for split, side in rows for n in ((1, 2) if split is encoded.pairs else (1,))]
    count, learnt = sum(map(len, answers)), int(sum(ends[numbers].sum() for numbers in answers))
    return EndOfTurn(
        token=codec.tokenizer.decode([codec.end_of_turn]),
        answers=count,
        learnt=learnt,
        cut=count - learnt,
        doubled_bos=int(sum(doubled[sequences(side, 0)[1]].sum() for _, side in rows)),
    )
