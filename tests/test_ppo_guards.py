"""The guards on made-up metrics; and through the trainer and the stage: what stops a run, when, and what is kept."""

import functools
import math
import tempfile
import types
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from ppo_toy import PROMPTS, differing, first_rollout, metrics_rows, trainer, weights
from toy import adapters, toy_base
from transformers import TrainerCallback

import kit
from kit.models.encoding import EncodedPrompt
from kit.ppo.guards import GUARDS, NAMES, GuardWatch
from kit.runs.checkpoints import Checkpoints
from kit.stages.ppo import train_ppo

HEALTHY = {
    "objective/kl": 3.0, "eos_rate": 0.9, "lengths/mean": 40.0, "policy/token_entropy": 1.5,
    "val/explained_variance": 0.4,
}  # fmt: skip
ILL = {
    "kl": {"objective/kl": 101.0},
    "negative_kl": {"objective/kl": -1.5},
    "eos": {"eos_rate": 0.01},
    "length": {"lengths/mean": 63.5},
    "entropy": {"policy/token_entropy": 0.02},
    "critic": {"val/explained_variance": -0.1},
}
WARNS = {"kl": 1, "negative_kl": 1, "eos": 1, "length": 1, "entropy": 1, "critic": 5}  # at so many in a row
STOPS = {"kl": 3, "negative_kl": 3, "eos": 5, "length": 5, "entropy": 3, "critic": 10}


def watch(*off, estimator="k1"):
    """A watch with TRL's and the kit's defaults, that has seen one healthy rollout."""
    settings = {"guards_off": list(off), "max_kl": 100.0, "kl_estimator": estimator, "max_completion_length": 64}
    made = GuardWatch(types.SimpleNamespace(**settings))
    assert made.look(HEALTHY) == []
    return made


def ill(name):
    return HEALTHY | ILL[name]


class TestEachGuard:
    def test_there_is_a_case_for_every_one(self):
        assert set(NAMES) == set(ILL) and {g.name: (g.warns, g.stops) for g in GUARDS} == {
            name: (WARNS[name], STOPS[name]) for name in NAMES
        }

    def test_all_are_silent_while_the_run_is_healthy(self):
        made = watch()
        assert [made.look(HEALTHY) for _ in range(20)] == [[]] * 20

    @pytest.mark.parametrize("name", NAMES)
    def test_it_alone_warns_once_and_stops_when_it_has_seen_enough(self, name):
        made = watch()
        for count in range(1, STOPS[name] + 1):
            findings = made.look(ill(name))
            spoken = [(f.guard, f.stop) for f in findings]
            assert spoken == ([(name, count == STOPS[name])] if count in (WARNS[name], STOPS[name]) else [])
            assert made.content == (count < WARNS[name])
        assert f"{STOPS[name]} rollouts in a row" in findings[0].text

    @pytest.mark.parametrize("name", NAMES)
    def test_a_healthy_rollout_resets_the_count(self, name):
        made = watch()
        for _ in range(3):
            for _ in range(STOPS[name] - 1):
                assert not any(finding.stop for finding in made.look(ill(name)))
            assert made.look(HEALTHY) == [] and made.content

    @pytest.mark.parametrize("name", NAMES)
    def test_it_can_be_switched_off_by_name_and_the_others_go_on(self, name):
        made = watch(name)
        assert [made.look(ill(name)) for _ in range(12)] == [[]] * 12
        other = next(n for n in NAMES if n != name and WARNS[n] == 1)
        assert made.look(ill(other))[0].guard == other

    @pytest.mark.parametrize("name", NAMES)
    def test_its_message_says_number_remedy_and_how_to_switch_it_off(self, name):
        made = watch()
        (finding,) = [finding for _ in range(WARNS[name]) for finding in made.look(ill(name))]
        guard = next(g for g in GUARDS if g.name == name)
        assert guard.remedy in finding.text and f"ppo.guards_off: [{name}]" in finding.text
        assert any(digit in finding.text.split("Remedy")[0] for digit in "0123456789") and not finding.stop

    @pytest.mark.parametrize(
        "name, edge",
        [("kl", {"objective/kl": 100.0}), ("negative_kl", {"objective/kl": -1.0}), ("eos", {"eos_rate": 0.02}),
         ("length", {"lengths/mean": 62.72}), ("entropy", {"policy/token_entropy": 0.031}),
         ("critic", {"val/explained_variance": 0.0})],
    )  # fmt: skip
    def test_at_its_edge_it_is_silent(self, name, edge):
        made = watch()
        assert [made.look(HEALTHY | edge) for _ in range(STOPS[name])] == [[]] * STOPS[name]

    def test_two_at_once_are_two_findings(self):
        assert {f.guard for f in watch().look(ill("eos") | ILL["length"])} == {"eos", "length"}

    def test_an_unknown_name_is_refused_with_the_names_there_are(self):
        with pytest.raises(ValueError, match="no guard entropi; there are kl, negative_kl, eos"):
            watch("entropi")

    def test_k3_may_not_be_negative_so_that_guard_is_for_k1(self):
        assert watch(estimator="k3").look(ill("negative_kl")) == []

    def test_a_number_that_does_not_exist_counts_as_healthy(self):
        assert watch().look(HEALTHY | {"val/explained_variance": math.nan}) == []

    def test_the_first_rollout_is_what_entropy_is_measured_against(self):
        made = GuardWatch(watch().args)
        low = HEALTHY | {"policy/token_entropy": 0.02}
        assert made.look(low) == [] and made.look(low) == []
        assert made.look(HEALTHY | {"policy/token_entropy": 0.0003})[0].guard == "entropy"


def calm(**changes):
    """Settings under which no guard but those named by `only` has reason to act."""
    only = changes.pop("only", ())
    return {"guards_off": [n for n in NAMES if n not in only]} | changes


class TestInTheTrainer:
    def test_the_warning_names_the_rollout_and_the_stop_comes_before_any_step_of_its_rollout(self, tmp_path, capsys):
        ppo = trainer(tmp_path, rollouts=8, max_completion_length=2, missing_eos_penalty=None, **calm(only=["length"]))
        ppo._generate = lambda prompts: ([[5, 6, 7]] * 8, [[30, 31]] * 8, ["x"] * 8)
        with pytest.raises(
            kit.TrainingStopped, match=r"stopped at rollout 5: responses are 2 tokens .*5 rollouts in a row"
        ):
            ppo.train()
        said = capsys.readouterr().err
        assert [f"ppo, rollout {i}: responses are" in said for i in range(1, 6)] == [True] + [False] * 4
        assert ppo.state.global_step == 16 and len(metrics_rows(ppo)) == 4

    def test_the_best_policy_is_that_of_the_best_rollout_without_a_finding(self, tmp_path):
        scores, kept = iter([1.0, 5.0, 3.0, 9.0]), []
        ppo = trainer(
            tmp_path, rollouts=4, kl_coef=0.0, reward_funcs=[lambda prompts, **_: [next(scores)] * 8],
            max_completion_length=6, **calm(only=["eos"]),
        )  # fmt: skip
        ended, end = iter([True, True, True, False]), ppo.eos_token_ids[0]

        def generate(prompts):
            kept.append({n: x for n, x in weights(ppo.model).items() if ".default." in n})
            return [[5, 6, 7]] * 8, [[30, end if next(ended) else 31]] * 8, ["x"] * 8

        ppo._generate = generate
        ppo.train()
        assert ppo.carried.best == {"rollout": 1, "rlhf_reward": 5.0}
        best = {n.replace(".weight", ".default.weight"): x for n, x in ppo.carried.best_policy.items()}
        assert not differing(best, kept[1]) and differing(best, kept[0]) and differing(best, kept[2])

    def test_the_best_policy_is_a_copy_that_training_does_not_touch(self, tmp_path):
        ppo = trainer(tmp_path, rollouts=1)
        first_rollout(ppo)
        before = {n: x.clone() for n, x in ppo.carried.best_policy.items()}
        ppo.train()
        with torch.no_grad():
            for name, parameter in ppo.model.named_parameters():
                if ".default." in name:
                    parameter.zero_()
        assert not differing(before, ppo.carried.best_policy)

    def test_an_unknown_guard_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="no guard nobody"):
            trainer(tmp_path, guards_off=["nobody"])


class Spoil(TrainerCallback):
    """Runs a function once, after the first optimizer step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            self.function()


def spoil(ppo, part):
    """NaN in one weight of a part."""
    with torch.no_grad():
        name, parameter = [(n, p) for n, p in ppo.model.named_parameters() if part in n and "lora_A" not in n][-1]
        parameter.view(-1)[0] = math.nan
    return name


def stopped(ppo, match):
    """Train to the stop; (weights before the last step that was not taken, weights after it)."""
    before = {}

    class Keep(TrainerCallback):
        def on_step_begin(self, *_, **__):
            before.update(weights(ppo.model))

    before.update(weights(ppo.model))
    ppo.add_callback(Keep())
    with pytest.raises(kit.TrainingStopped, match=match) as caught:
        ppo.train()
    return before, weights(ppo.model), str(caught.value)


def untouched(before, after):
    return [n for n in before if not torch.equal(before[n].nan_to_num(), after[n].nan_to_num())] == []


class TestNumbersThatAreNotFinite:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_score_stops_before_any_step_and_names_row_and_prompt(self, tmp_path, bad):
        ppo = trainer(tmp_path, reward_funcs=[lambda prompts, **_: [0.0] * 3 + [bad] + [0.0] * 4])
        before, after, text = stopped(ppo, r"before optimizer step 1: score is not finite in row\(s\) \[3\]")
        assert untouched(before, after) and ppo.state.global_step == 0
        assert str(ppo._prompts[3]) in text and "ppo.learning_rate" in text

    def test_no_guard_has_to_be_on_for_that(self, tmp_path):
        ppo = trainer(tmp_path, reward_funcs=[lambda prompts, **_: [math.nan] * 8], guards_off=list(NAMES))
        stopped(ppo, "score is not finite")

    @pytest.mark.parametrize("critic", ["adapter", "shared"])
    def test_a_value_stops_before_any_step(self, tmp_path, critic):
        ppo = trainer(tmp_path, critic)
        spoil(ppo, "value_head")
        before, after, _ = stopped(ppo, r"step 1: value is not finite in row\(s\) \[0, 1, 2, 3, 4\]")
        assert untouched(before, after)

    @pytest.mark.parametrize("nf4", [False, True])
    def test_a_reward_adapter_that_is_spoilt_stops_before_any_step(self, tmp_path, nf4):
        ppo = trainer(tmp_path, nf4=nf4)
        spoil(ppo, ".reward.")
        before, after, _ = stopped(ppo, r"step 1: score is not finite in row\(s\)")
        assert untouched(before, after)

    def test_a_reference_that_is_spoilt_stops_before_any_step(self, tmp_path):
        ppo = trainer(tmp_path)
        spoil(ppo, ".ref.")
        before, after, _ = stopped(ppo, r"step 1: .* is not finite")
        assert untouched(before, after)

    @pytest.mark.parametrize("part, what", [(".default.", "policy loss"), (".critic.", "value loss")])
    def test_a_loss_stops_before_the_step_and_names_rows(self, tmp_path, part, what):
        ppo = trainer(tmp_path)
        ppo.add_callback(Spoil(lambda: spoil(ppo, part)))
        before, after, text = stopped(ppo, rf"before optimizer step 2: {what} is not finite in row\(s\) \[\d, \d\]")
        assert untouched(before, after) and "the first one's prompt" in text and ppo.state.global_step == 1

    @pytest.mark.parametrize("limit", [1.0, 0.0])
    @pytest.mark.parametrize("part, what", [(".default.", "policy"), (".critic.", "critic"), ("value_head", "critic")])
    def test_a_gradient_stops_before_the_step_also_where_nothing_is_clipped(self, tmp_path, part, what, limit):
        ppo = trainer(tmp_path, max_grad_norm=limit)
        parameter = [p for n, p in ppo.model.named_parameters() if part in n][-1]
        parameter.register_hook(lambda gradient: gradient * math.nan)
        before, after, _ = stopped(ppo, rf"before optimizer step 1: gradient of the {what} is not finite")
        assert untouched(before, after)


def stage(tmp_path, **ppo):
    """`train_ppo` on the toy base: the exception's text, and the folder it ran in."""
    sft, reward = adapters()
    base = toy_base()
    settings = {"batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 1, "episodes": 64, "learning_rate": 1e-3}
    config = kit.Config(data={"max_response_tokens": 4}, ppo=settings | ppo)
    prompts = [EncodedPrompt(row["prompt"], base.codec.prompt(row["prompt"])) for row in PROMPTS]
    data = types.SimpleNamespace(prompts=types.SimpleNamespace(train=prompts))
    out = tmp_path / "run" / "ppo"
    out.mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(kit.TrainingStopped) as caught:
        train_ppo(config, data, base, out, sft, reward, checkpoints)
    return str(caught.value), out


SPOILT = """
def f(completions, trainer_state, **_):
    return [float('nan') if trainer_state.global_step >= {step} else 1.0] * len(completions)
"""


@functools.cache
def stopped_stage():
    """A run of the stage that the guard `kl` stops: only the first rollout's KL is below the budget."""
    folder = tempfile.TemporaryDirectory(prefix="kit-toy-")
    return folder, *stage(Path(folder.name), kl_estimator="k3", max_kl=1e-4, guards_off=[n for n in NAMES if n != "kl"])


class TestTheStage:
    @pytest.fixture
    def by_guard(self):
        return stopped_stage()[1:]

    def test_the_message_names_rollout_remedy_and_folder(self, by_guard):
        text, out = by_guard
        kept = out.parent / "ppo-stopped"
        assert "PPO stopped at rollout" in text and "Remedy: raise ppo.kl_coef" in text
        assert "ppo.guards_off: [kl]" in text and f"is kept in {kept}" in text

    def test_the_checkpoints_stay_so_that_a_cause_from_outside_costs_no_rollout(self, by_guard):
        _, out = by_guard
        checkpoints = out.parent.parent / "checkpoints"
        assert list(checkpoints.glob("checkpoint-*/trainer_state.json"))

    def test_the_best_policy_lies_beside_the_stage_as_a_folder_that_peft_loads(self, by_guard):
        _, out = by_guard
        kept = out.parent / "ppo-stopped"
        assert {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "completions.jsonl",
                "tokenizer.json", "README.md"} <= {p.name for p in kept.iterdir()}  # fmt: skip
        model = PeftModel.from_pretrained(toy_base().causal_lm(), str(kept))
        sft = PeftModel.from_pretrained(toy_base().causal_lm(), str(adapters()[0]))
        assert not differing(weights(model), weights(sft))  # the first rollout's was the only one without a finding
        assert not (out / "best").exists() and kit.TrainingStopped.exit_code == 3

    def test_a_number_that_is_not_finite_keeps_the_best_policy_too(self, tmp_path):
        (tmp_path / "mine.py").write_text(SPOILT.format(step=4))
        text, out = stage(tmp_path, reward_funcs={f"{tmp_path / 'mine.py'}:f": 1.0}, guards_off=list(NAMES))
        assert "score is not finite" in text and f"kept in {out.parent / 'ppo-stopped'}" in text
        assert (out.parent / "ppo-stopped" / "adapter_model.safetensors").exists()

    def test_where_no_rollout_was_sound_there_is_no_folder_and_the_message_says_so(self, tmp_path):
        (tmp_path / "mine.py").write_text(SPOILT.format(step=0))
        text, out = stage(tmp_path, reward_funcs={f"{tmp_path / 'mine.py'}:f": 1.0})
        assert "No policy was worth keeping" in text and not (out.parent / "ppo-stopped").exists()
