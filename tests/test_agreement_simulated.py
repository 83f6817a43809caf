"""Simulated annotators, each fault known: all are named for what they do, and honest people are left alone."""

import importlib
from pathlib import Path

import pytest

from kit.feedback.agreement import agreement

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("agreement")


class TestSimulatedAnnotators:
    @pytest.mark.parametrize("case", ["pairs, 300 each", "ranks of 5, 100 each"])
    def test_are_each_named_for_what_they_do(self, bench, case):
        (case,) = [each for each in bench.CASES if each.name == case]
        found = agreement(case.rows(seed=1, faults=True))
        named = {name.rsplit("-", 1)[0]: kind for name, kind in bench.kinds_of(found).items()}
        assert {kind: named.get(kind) for kind in bench.NAMES} == bench.NAMES
        assert sum(name.startswith("honest") for name in bench.kinds_of(found)) <= 1

    def test_who_changes_is_dated_to_the_day(self, bench):
        found = agreement(bench.CASES[2].rows(seed=1, faults=True))
        (name,) = [flag.annotator for flag in found.flags if flag.kind == "drifting" and "drifting" in flag.annotator]
        change = found.reliability[name].change
        assert abs(change.time - bench.START - bench.DRIFT_DAY * bench.DAY) < 2 * bench.DAY
        assert change.eta_before > 0.8 > 0.65 > change.eta_after

    def test_honest_people_alone_are_left_alone(self, bench):
        named = [agreement(bench.CASES[0].rows(seed=seed, faults=False)).flags for seed in range(5)]
        assert sum(map(len, named)) <= 1
