"""Simulated voters in a run's blind A/B: is the verdict of people the truth's, and how many of them does it take?

They see the demo world's truth through noise (true reward, standard deviation) and vote through the desk, as the page
does. `people` are voters an item.

    python benchmarks/blind_ab.py runs/quickstart --noise 0 1 2 --people 1 3
"""

import argparse
import io
import json
import random
import statistics
import tempfile
import uuid
from contextlib import redirect_stdout
from pathlib import Path

from kit.compare.judges.people import judge_by_people
from kit.compare.numbers.statistics import outcome_rate, verdict
from kit.compare.verdicts import Verdicts
from kit.demo.world import truth_of_messages
from kit.labels.desk import Desk
from kit.labels.project import Project
from kit.sampling.ab import ARMS, ab_project


def main() -> None:
    """Print one line of a table for each noise and number of people."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run on the demo world, with a comparison")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0, 2.0])
    parser.add_argument("--people", type=int, nargs="+", default=[1, 3])
    asked = parser.parse_args()
    rows = [
        json.loads(line) for line in (asked.run / "compare" / "samples.jsonl").read_text("utf-8").split("\n") if line
    ]
    prompts = [row["prompt"] for row in rows]
    answers = {arm: [row["arms"][arm]["text"] for row in rows] for arm in ARMS}
    scores = {arm: [row["arms"][arm]["true_reward"] for row in rows] for arm in ARMS}
    truth = [0.5 if abs(a - b) < 1e-9 else float(a > b) for a, b in zip(*scores.values(), strict=True)]
    apart = statistics.median(abs(a - b) for a, b in zip(*scores.values(), strict=True))
    print(f"The two answers lie {apart:.2f} apart in true reward (median of {len(truth)} prompts).\n")
    print("| voters | noise | votes | agree with one another | PPO wins | verdict |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(line("the truth", "", "", None, truth))
    for people in asked.people:
        for noise in asked.noise:
            with tempfile.TemporaryDirectory() as place:
                with redirect_stdout(io.StringIO()):
                    project = ab_project(asked.run, Path(place) / "ab", per_item=people)
                vote(project, people, noise)
                found: Verdicts = judge_by_people(project.path, asked.run, prompts, answers, [ARMS])
            facts = found.facts
            print(line(f"{people} an item", noise, facts["votes"], facts["agreement"], found.outcomes[ARMS]))


def vote(project: Project, people: int, noise: float) -> None:
    """Everybody votes on all that is dealt to them."""
    desk, chance = Desk(project), random.Random(0)
    names = [f"voter {number}" for number in range(people)]
    desk.welcome(dict.fromkeys(names))
    for who in names:
        while work := desk.work(who)["work"]:
            seen = [truth_of_messages(work[0]["prompt"], text) + chance.gauss(0, noise) for text in work[0]["answers"]]
            ranks = [1, 1] if abs(seen[0] - seen[1]) < 1e-9 else [1 + (seen[0] < seen[1]), 1 + (seen[0] > seen[1])]
            said = {"id": str(uuid.uuid4()), "deal": work[0]["deal"], "ranks": ranks, "guidelines_sha256": "0" * 64}
            desk.judge(who, said)
    desk.close()


def line(who: str, noise: object, votes: object, agreement: float | None, outcomes: list[float | None]) -> str:
    """A row of the table."""
    rate = outcome_rate(outcomes)
    assert rate is not None
    low, high = rate.ci95
    agreed = "" if agreement is None else f"{agreement:.0%}"
    won = f"{rate.rate:.1%} ({low:.0%} to {high:.0%})"
    return f"| {who} | {noise} | {votes} | {agreed} | {won} | {verdict(rate.ci95, *ARMS)} |"


if __name__ == "__main__":
    main()
