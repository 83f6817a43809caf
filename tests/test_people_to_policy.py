"""From nothing to a policy: sample, rank over HTTP, train on the rankings. Small in CI, whole with `make test-slow`."""

from typing import Any, NamedTuple

import pytest
import yaml
from label_people import demo_people, rank_all

import kit
from kit.labels.rows import judgement_rows

pytest.importorskip("uvicorn")
from kit.labelling.serve import start  # after uvicorn is known to be there


class Way(NamedTuple):
    """A whole way from an SFT adapter to policies, and what was seen on it."""

    project: Any
    sent: int
    agreement: Any
    run: Any


def walk(folder, config: dict, prompts: int, k: int, people: int, **options) -> Way:
    """SFT, `k` answers to each of `prompts` prompts, ranked by so many people each, then all stages on the rankings."""
    first = kit.run_pipeline(config | {"name": "first", "output_dir": str(folder), "stages": ["sft"]})
    project = kit.sample(first, k=k, limit=prompts, per_item=people, out=folder / "labels", name="ranked", **options)
    crowd = demo_people()
    with start(project, dict.fromkeys(crowd), port=0) as serving:
        sent = rank_all({name: serving.link(name) for name in crowd}, crowd)
    data = config["data"] | {"preferences": str(project.path), "prompts": "demo", "votes": "reliability"}
    run = kit.run_pipeline(config | {"name": "ranked", "output_dir": str(folder), "data": data})
    return Way(project, sent, kit.agreement(project.path), run)


@pytest.mark.pipeline
class TestASmallWay:
    @pytest.fixture(scope="class")
    @classmethod
    def way(cls, tmp_path_factory):
        from test_pipeline import TOY

        return walk(
            tmp_path_factory.mktemp("way"),
            TOY | {"data": TOY["data"] | {"demonstrations": "demo"}},
            12,
            4,
            3,
            max_tokens=16,
        )

    def test_every_judgement_that_was_sent_is_in_the_project(self, way):
        assert way.sent == len(list(judgement_rows(way.project))) > 0

    def test_every_item_has_its_people(self, way):
        rows = [row for row in judgement_rows(way.project) if row["repeat_of"] is None]
        assert {sum(row["item"] == item for row in rows) for item in {row["item"] for row in rows}} == {3}

    def test_agreement_is_measured(self, way):
        assert len(way.agreement.people) == 5
        assert way.agreement.alpha_nominal is not None

    def test_all_arms_are_trained_and_compared(self, way):
        assert {"sft", "reward", "ppo", "dpo", "compare"} <= set(way.run.stages)


@pytest.mark.slow
class TestTheWholeWay:
    @pytest.fixture(scope="class", params=[0, 1, 2])
    @classmethod
    def way(cls, request, tmp_path_factory):
        with open("configs/quickstart.yaml", encoding="utf-8") as file:
            config = yaml.safe_load(file)
        config["seed"] = request.param
        config["reward"]["epochs"] = config["dpo"]["epochs"] = 2
        config["ppo"]["force"] = True  # the held-out pairs of so few prompts show nothing, and the truth judges here
        config["data"]["eval_fraction"] = 0.15
        return walk(tmp_path_factory.mktemp("way"), config, 40, 5, 5)

    @pytest.mark.parametrize("arm", ["dpo", "ppo"])
    def test_the_true_reward_rises(self, way, arm):
        arms = way.run.comparison.metrics["arms"]
        print({name: one["true_reward"] for name, one in arms.items()})
        assert arms[arm]["true_reward"]["mean"] > arms["sft"]["true_reward"]["mean"]
