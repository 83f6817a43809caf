"""The pieces of work of a run, each with a folder of its own: its stages, and their repetitions with other seeds."""

from dataclasses import dataclass

from kit.config import NEEDS, Config

JUDGE = "judge"  # the reward model that judges, trained on pairs of its own; no stage that a user names
_START = "sft"  # the one start of every arm, so it is not repeated
_APART = 7919  # between the run's seed and the judge's: from one seed, proxy and judge would begin with one score head


@dataclass(frozen=True)
class Step:
    """A stage, trained with one seed. `name` is that of its folder; `needs` are the steps it takes adapters from."""

    stage: str
    name: str
    seed: int
    needs: tuple[str, ...]


def run_steps(config: Config, with_judge: bool) -> list[Step]:
    """The steps of a run in order: the stages, their repetitions (`ppo-seed-1`), the judge where one is trained,
    compare. Only the comparison has a use for repetitions."""
    seed, compared = config.seed, "compare" in config.stages
    stages = [stage for stage in config.stages if stage != "compare"]
    steps = [Step(stage, stage, seed, NEEDS[stage]) for stage in stages]
    if not compared:
        return steps
    for other in range(seed + 1, seed + config.compare.seeds):
        names: dict[str, str] = {stage: stage if stage == _START else f"{stage}-seed-{other}" for stage in stages}
        steps += [
            Step(stage, names[stage], other, tuple(names[need] for need in NEEDS[stage]))
            for stage in stages
            if stage != _START
        ]
    if with_judge:
        steps.append(Step(JUDGE, JUDGE, seed + _APART, (_START,)))
    return [*steps, Step("compare", "compare", seed, tuple(step.name for step in steps))]
