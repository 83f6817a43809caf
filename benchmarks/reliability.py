"""Does the reliability model predict judgements it has not seen as well as the majority of the others does?

    python benchmarks/reliability.py lqual.jsonl --objective overall grammar redundancy
    python benchmarks/reliability.py pandalm-testset.json

Each file is cut into folds by judgement, at random. The model (kit.crowd.model) is fitted to the other folds and
predicts each held-out judgement that others' judgements are left for; the majority takes the most frequent of these,
and where two are as frequent, the one more frequent in the whole file. Prints the accuracy of both on the same
judgements and of always saying the most frequent answer, and the difference with its 95 % bootstrap interval over
items; also the mean log-loss (nats) of the model, and of shares among the others with one count of the file's shares
added. Exits with 1 where the model is worse than the majority: the interval lies below zero.
"""

import argparse
import sys
from collections import Counter, defaultdict

import numpy as np

from kit.crowd.judgements import Judgements
from kit.crowd.model import fit, predict
from kit.crowd.votes import Votes, votes_of
from kit.feedback.read import read_judgements
from kit.statistics import mean_over_groups


def classes_of(found: Judgements, votes: Votes) -> dict[tuple[int, str], dict[str, list[int]]]:
    """(judgement, what it is on) -> the columns of its votes, in the order of the scale's steps."""
    by: defaultdict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    for column, (unit, number) in enumerate(zip(votes.unit, votes.judgement, strict=True)):
        name = votes.units[unit]
        on = name[:2] if votes.scale[column] else name
        by[int(number), on].append(column)
    return by


def level(votes: Votes, columns: list[int]) -> float:
    """The judgement as a number: the steps it reached, or 0, 0.5, 1 of a pair."""
    return float(votes.value[columns].sum())


def probabilities(reached: np.ndarray, pair: bool) -> dict[float, float]:
    """Of every level: of a pair that either is better, of ratings that so many steps are reached."""
    if pair:
        return {0.0: 1 - float(reached[0]), 1.0: float(reached[0])}
    ends = np.minimum.accumulate(np.concatenate([[1.0], reached, [0.0]]))
    return {float(step): float(p) for step, p in enumerate(ends[:-1] - ends[1:])}


def run(path: str, objective: str | None, folds: int, seeds: int) -> bool:
    found = read_judgements(path, objective)
    votes = votes_of(found)
    cases = classes_of(found, votes)
    pairs = not votes.scale.any()
    told = {key: level(votes, columns) for key, columns in cases.items()}
    if pairs:  # a tie is no verdict that a model of two sides could predict
        cases = {key: columns for key, columns in cases.items() if told[key] != 0.5}
    whole = Counter(told[key] for key in cases)
    rows = []  # (item, model right, majority right, mode right, model loss, share loss)
    for seed in range(seeds):
        fold = np.random.default_rng(seed).integers(0, folds, size=len(found.rows))[votes.judgement]
        for out in range(folds):
            train = votes.of(fold != out)
            crowd = fit(train)
            seen: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
            for (number, on), columns in cases.items():
                if fold[columns[0]] != out:
                    seen[on].append(told[number, on])
            p = predict(train, crowd, votes)
            for (number, on), columns in cases.items():
                if fold[columns[0]] == out and seen[on]:
                    chances = probabilities(p[columns], pairs)
                    others, right = Counter(seen[on]), told[number, on]
                    majority = max(others, key=lambda one: (others[one], whole[one]))
                    guess = max(chances, key=chances.__getitem__)
                    share = (others[right] + whole[right] / whole.total()) / (others.total() + 1)
                    rows.append((votes.item[columns[0]], guess == right, majority == right,
                                 whole.most_common(1)[0][0] == right, -np.log(max(chances.get(right, 0), 1e-6)),
                                 -np.log(share)))  # fmt: skip
    item, model, major, mode, loss, share_loss = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    difference, low, high = mean_over_groups(model - major, [int(one) for one in item])
    name = f"{found.source}, {objective}" if objective else found.source
    cells = [name, f"{len(found.annotators)}", f"{len(rows) // seeds:,}"]
    cells += [f"{right.mean():.3f}" for right in (model, major, mode)]
    cells += [f"{difference:+.3f} ({low:+.3f} to {high:+.3f})", f"{loss.mean():.3f}", f"{share_loss.mean():.3f}"]
    print("|", " | ".join(cells), "|", flush=True)
    return high >= 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--objective", nargs="*", default=[None])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    print("| file | people | held-out | model | majority | most frequent | model - majority | loss | loss of shares |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    good = [run(asked.file, objective, asked.folds, asked.seeds) for objective in asked.objective]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
