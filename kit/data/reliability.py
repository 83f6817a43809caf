"""One verdict for each two answers of a prompt from several people's, each weighed by how reliable they are.

The crowd Bradley-Terry model (kit.crowd.model) gives every person an eta: 1 reads and judges, 0.5 throws dice, 0 puts
the better answer last. The verdict is the likelier of the two orders given all votes on the pair and the etas: an
adversary's vote counts the other way round, a careless one's hardly. What is too close to even is left out, as a tie.

Shapes: u units (two answers of a prompt), n votes, j people.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kit.data import catalogue
from kit.data.opinions import Answer, Opinion, one_a_pair, settle_votes
from kit.data.rows import prompt_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kit.crowd.judgements import Judgement

CLOSE = 0.05  # a likelier order of a probability below 0.5 + this is too close to even
_LOW = 0.7  # an eta below this is told
_TOLD = 5  # people


def settle_by_reliability(opinions: Sequence[Opinion], counts: Counter[str]) -> list[Opinion]:
    """One opinion for each two answers of a prompt that the people together put in an order.

    Its margin is the net share of the weighted votes, sum c v / sum |c|, c = 2 eta - 1 of who votes and v = 1, -1, or 0
    for a tie: 1 where all who count agree. Of several votes of one person on one pair of answers the last counts.
    Opinions that name nobody are left out; of one person alone every verdict counts the same, and `counts` tells.
    """
    named = [opinion for opinion in opinions if opinion.annotator is not None]
    people = {_name(opinion) for opinion in named}
    if len(named) < len(opinions):
        counts[catalogue.UNNAMED] += len(opinions) - len(named)
    if len(people) < 2:
        counts[catalogue.ONE_JUDGE.format(who="".join(people))] = 0
        return settle_votes(one_a_pair(named), counts, margins=True)
    import numpy as np

    from kit.crowd.judgements import Judgements
    from kit.crowd.model import fit, likelier
    from kit.crowd.votes import votes_of

    last_first = [judgement for number, one in enumerate(named) if (judgement := _judgement(one, number))][::-1]
    votes = votes_of(Judgements("", "", last_first))
    if votes.again:
        counts[catalogue.VOTED_TWICE] += len(votes.again)
    crowd = fit(votes)
    u = len(votes.units)
    first_better = likelier(votes, crowd)
    c, sign = (2 * crowd.eta - 1)[votes.who], 2 * votes.value - 1
    weights = np.bincount(votes.unit, np.abs(c), minlength=u)
    net = np.bincount(votes.unit, c * sign, minlength=u) / np.maximum(weights, 1e-12)
    side = np.sign(first_better - 0.5)
    margin = np.round(np.where(np.abs(first_better - 0.5) < CLOSE, 0.0, net * side), 6)
    start = np.full(u, len(named))
    np.minimum.at(start, votes.unit, [int(last_first[at].where) for at in votes.judgement])
    settled = []
    for at in np.lexsort((np.arange(u), start)):
        if margin[at] <= 0:
            continue
        _, one, two = votes.units[at]
        better, worse = (one, two) if side[at] > 0 else (two, one)
        told = named[start[at]]
        answers = (Answer(better, 1.0), Answer(worse, 0.0))
        settled.append(Opinion(told.prompt, answers, told.where, margin=float(margin[at])))
    table = np.zeros((u, 3))
    np.add.at(table, (votes.unit, np.rint(2 * votes.value).astype(int)), 1.0)
    _tell(table, np.where(margin > 0, side, 0), dict(zip(votes.people, crowd.eta, strict=True)), counts)
    return settled


def _tell(table: "NDArray", side: "NDArray", etas: dict[str, float], counts: Counter[str]) -> None:
    """Where the verdicts [u] differ from the majority's, by the counts [u, 3] of votes; who counts for little."""
    n = table.sum(1)
    compared, agreeing = (n * (n - 1) / 2).sum(), (table * (table - 1) / 2).sum()
    if compared:
        counts[catalogue.AGREEMENT.format(share=agreeing / compared, cases=len(table))] = 0
    most = table.max(1)
    plural = (table == most[:, None]).sum(1) == 1
    majority = (table[:, 2] == most).astype(int) - (table[:, 0] == most)  # 1: the first, -1: the other, 0: a tie
    majority[~plural] = 0
    low = sorted((eta, name) for name, eta in etas.items() if eta < _LOW)
    listed = ", ".join(f"{name}: eta {eta:.2f}" for eta, name in low[:_TOLD]) + (", …" if len(low) > _TOLD else "")
    counts[
        catalogue.RELIABILITY.format(
            pairs=len(table),
            turned=int((majority * side < 0).sum()),
            opened=int(((majority == 0) & (side != 0)).sum()),
            left=int((side == 0).sum()),
            close=CLOSE,
            low=f"; these people count for little, or the other way round: {listed}" if low else "",
        )
    ] = 0


def _name(opinion: Opinion) -> str:
    """Who judged; a column a person, as PandaLM has, names the same people in all rows."""
    return (opinion.annotator or "").removesuffix(f" of {opinion.where}")


def _judgement(opinion: Opinion, number: int) -> "Judgement | None":
    """The opinion as the model reads it, its number in `where`; None where it orders no two answers."""
    from kit.crowd.judgements import Judgement, kind_of

    values = {answer.text: answer.value for answer in reversed(opinion.answers) if answer.value is not None}
    if len(values) < 2:
        return None
    names = tuple(values)
    return Judgement(
        _name(opinion), prompt_key(opinion.prompt), kind_of(names), names, tuple(values.values()), str(number)
    )
