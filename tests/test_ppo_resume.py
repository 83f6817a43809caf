"""A run that was stopped and resumed is the unbroken run, to the bit: weights, metrics, and all that it carries."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from ppo_toy import differing, metrics_rows, trainer, weights

import kit

ADAPTIVE = {"kl_control": "adaptive", "target_kl": 1e-3, "kl_horizon": 80, "normalize_rewards": True}
CASES = {
    "everything": {
        **ADAPTIVE, "guards_off": ["eos", "length", "critic"], "max_kl": 1e-2, "reward_clip_range": (-2.0, 2.0),
        "critic_learning_rate": 3e-3, "critic_warmup_rollouts": 1,
    },
    "shared": {
        **ADAPTIVE, "critic": "shared", "critic_warmup_rollouts": 1, "lr_scheduler_type": "cosine",
        "critic_learning_rate": 3e-3, "gradient_checkpointing": True,
        "guards_off": ["eos", "length", "critic"],
    },
}  # fmt: skip
ROLLOUTS = 4
PROMPTS_13 = [{"prompt": [{"role": "user", "content": f"Say {i}."}]} for i in range(13)]  # no multiple of a rollout


def fresh(folder, case):
    return trainer(folder, rollouts=ROLLOUTS, save_strategy="steps", save_steps=4, prompts=PROMPTS_13, **CASES[case])


def state(ppo):
    """All that a run carries besides weights."""
    carried = ppo.carried
    return {
        "kl_coef": carried.kl_coef, "scores": vars(carried.scores), "best": carried.best,
        "counts": carried.guards.counts, "first": carried.guards.first, "step": ppo.state.global_step,
        "rates": [group["lr"] for group in ppo.optimizer.param_groups],
    }  # fmt: skip


def moments(ppo):
    """AdamW's state by its place, one tensor a name."""
    stored = ppo.optimizer.state_dict()["state"]
    return {f"{i}/{n}": x for i, numbers in stored.items() for n, x in numbers.items() if isinstance(x, torch.Tensor)}


@functools.cache
def unbroken(case):
    folder = tempfile.TemporaryDirectory(prefix="kit-toy-")
    ppo = fresh(folder.name, case)
    ppo.train()
    return folder, ppo


def assert_same_run(ppo, whole):
    assert differing(weights(whole.model), weights(ppo.model)) == []
    assert metrics_rows(ppo) == metrics_rows(whole) and len(metrics_rows(whole)) == ROLLOUTS
    assert state(ppo) == state(whole)
    assert differing(moments(ppo), moments(whole)) == []
    assert differing(ppo.carried.best_policy, whole.carried.best_policy) == []


class TestResume:
    @pytest.mark.parametrize("done", [1, 2, 3])
    @pytest.mark.parametrize("case", CASES)
    def test_after_any_rollout_it_equals_the_unbroken_run_to_the_bit(self, case, done):
        folder, whole = unbroken(case)
        torch.manual_seed(done)  # whatever the process did before
        resumed = fresh(folder.name, case)
        resumed.train(resume_from_checkpoint=str(Path(folder.name) / f"checkpoint-{4 * done}"))
        assert_same_run(resumed, whole)

    @pytest.mark.parametrize("case", CASES)
    def test_the_settings_of_the_cases_do_something(self, case):
        whole, rows = unbroken(case)[1], metrics_rows(unbroken(case)[1])
        changes = CASES[case]
        assert (len({row["kl_coef"] for row in rows}) > 1) == (changes.get("kl_control") == "adaptive")
        assert (whole.carried.scores.count == 8 * ROLLOUTS) == bool(changes.get("normalize_rewards"))
        assert whole.carried.best is not None and whole.carried.best_policy
        if "max_kl" in changes:
            assert whole.carried.guards.counts["kl"] > 1

    def test_a_checkpoint_is_small_and_none_of_its_files_is_a_pickle_of_our_own(self):
        folder, _ = unbroken("everything")
        names = {p.name for p in (Path(folder.name) / "checkpoint-8").iterdir()}
        assert {"ppo_state.json", "best_policy.safetensors", "critic.safetensors"} <= names
        assert not names & {"model.safetensors", "pytorch_model.bin", "training_args.bin"}

    def test_the_critic_of_another_shape_is_refused(self, tmp_path):
        folder, _ = unbroken("shared")
        with pytest.raises(kit.ModelError, match="critic does not fit"):
            fresh(tmp_path, "everything").train(resume_from_checkpoint=str(Path(folder.name) / "checkpoint-4"))


def killed_run(folder):
    """In a process of its own: a run that is killed in the middle of its third rollout."""

    def reward(prompts, completions, trainer_state, **_):
        if trainer_state.global_step >= 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return short(completions)

    trainer(folder, rollouts=ROLLOUTS, save_strategy="steps", save_steps=4, reward_funcs=[reward], seed=5).train()


def short(completions):
    return [-len(c[0]["content"]) / 10 for c in completions]


class TestKilled:
    def test_in_the_middle_of_a_rollout_it_resumes_to_the_unbroken_run(self, tmp_path):
        here = Path(__file__).parent
        code = f"import conftest, sys; import test_ppo_resume as t; t.killed_run({str(tmp_path / 'killed')!r})"
        path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]

        def reward(completions, **_):
            return short(completions)

        settings = {"rollouts": ROLLOUTS, "save_strategy": "steps", "save_steps": 4, "seed": 5}
        whole = trainer(tmp_path / "whole", reward_funcs=[reward], **settings)
        whole.train()
        resumed = trainer(tmp_path / "killed", reward_funcs=[reward], **settings)
        resumed.train(resume_from_checkpoint=True)
        assert_same_run(resumed, whole)
