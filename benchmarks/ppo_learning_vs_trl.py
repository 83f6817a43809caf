"""Does the kit's PPO learn at least as much as the last PPO that TRL shipped (1.12)? Judged by the demo world's truth.

    python benchmarks/ppo_learning_vs_trl.py [--seeds 0 1 2] [--trl-learning-rates 1.4e-3 7e-4 3.5e-4] [--trl-lams …]

For every seed, the kit runs configs/quickstart.yaml (sft, reward, ppo) in build/learning. A finished run is kept while
its settings and data are the same; so remove that folder after a change of the kit's code. Then TRL's PPOTrainer,
unmodified and in a process of its own, starts from the same SFT and reward adapters, with the same prompts, episodes,
optimizer steps and PPO settings. Both answer the same held-out prompts with the same random numbers.
TRL gets the learning rate and the lambda of GAE (its default 0.95, or the kit's) that served it best on the first seed,
by the very number it is judged by; the kit keeps the quickstart's, chosen on other seeds. All is on the CPU, in one
thread: about 10 minutes for three seeds, 6 where the kit's runs are there.

Prints the sweep; for each seed and for SFT, TRL and the kit the true reward, the reward model's score (proxy) and the
KL from SFT in nats, each with its 95 % interval over prompts; and the difference kit - TRL, paired by prompt.
Exits with 1 where the kit's mean over the seeds is below TRL's.
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.compare.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
TRL_VERSION = "1.12.0"  # the last release with PPOTrainer, at trl.experimental.ppo
TRL_FOLDER = ROOT / "build" / f"trl-{TRL_VERSION}"
RUNS = ROOT / "build" / "learning"
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SWEEP = (2, 1, 1 / 2)  # TRL's learning rates, in units of the kit's
NAMES = {"sft": "SFT", "trl": f"TRL {TRL_VERSION}", "kit": "kit"}


# ---- in this process: the kit's run, the sweep, the judging -----------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of everything for each")
    parser.add_argument("--trl-learning-rates", type=float, nargs="+", help="the sweep; default: the kit's x 2 to 1/4")
    parser.add_argument("--trl-lams", type=float, nargs="+", help="the same for lambda; default: 0.95 and the kit's")
    parser.add_argument("--train-trl", nargs=4, metavar=("RUN", "RATE", "LAM", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # before torch is imported
    if arguments.train_trl:
        run, rate, lam, out = arguments.train_trl
        train_trl(Path(run), (float(rate), float(lam)), Path(out))
        return 0

    install_trl()
    runs = {seed: run_kit(seed) for seed in arguments.seeds}
    first = arguments.seeds[0]
    setting, trl = sweep_trl(runs[first], arguments.trl_learning_rates, arguments.trl_lams)
    trained = {first: trl} | {seed: run_trl(runs[seed], setting) for seed in arguments.seeds[1:]}
    results = {seed: judge(run, {"trl": trained[seed], "kit": run / "ppo"}) for seed, run in runs.items()}
    return report(results)


def install_trl() -> None:
    """TRL's last release with PPO, in a folder of its own: the environment keeps the TRL that the kit needs."""
    if not (TRL_FOLDER / "trl").is_dir():
        print(f"installing trl=={TRL_VERSION} into {TRL_FOLDER.relative_to(ROOT)}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL_FOLDER)]
        subprocess.run([*pip, f"trl=={TRL_VERSION}"], check=True)


def run_kit(seed: int) -> Path:
    """Folder of the kit's run with this seed: what the quickstart does, without the arm that is not compared here."""
    import kit

    stages = ["sft", "reward", "ppo"]
    return kit.run_pipeline(QUICKSTART, output_dir=str(RUNS), name=f"seed-{seed}", seed=seed, stages=stages).path


def run_trl(run: Path, setting: tuple[float, float]) -> Path:
    """Folder of the policy that TRL trains at this (learning rate, lambda), from the SFT and reward adapters."""
    rate, lam = setting
    out = RUNS / "trl" / f"{run.name}-rate-{rate:g}-lam-{lam:g}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    path = os.pathsep.join([str(TRL_FOLDER), str(ROOT)])
    started = time.monotonic()
    with open(out / "train.log", "w", encoding="utf-8") as log:
        command = [sys.executable, __file__, "--train-trl", str(run), str(rate), str(lam), str(out)]
        done = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        tail = "\n".join((out / "train.log").read_text(encoding="utf-8").splitlines()[-15:])
        raise SystemExit(f"TRL's PPO failed; the end of {(out / 'train.log').relative_to(ROOT)}:\n{tail}")
    print(f"TRL, {run.name}, learning rate {rate:g}, lambda {lam:g}: {time.monotonic() - started:.0f} s", flush=True)
    return out


def sweep_trl(run: Path, rates: list[float] | None, lams: list[float] | None) -> tuple[tuple[float, float], Path]:
    """The (learning rate, lambda) of the highest true reward on this run, and the policy it made."""
    from kit.preflight import load_config

    ppo = load_config(run / "config.yaml").ppo
    rates = rates or [factor * ppo.learning_rate for factor in SWEEP]
    reached = {}
    for setting in itertools.product(rates, lams or sorted({0.95, ppo.lam})):
        policy = run_trl(run, setting)
        reached[setting] = (judge(run, {"trl": policy})["trl"], policy)
    best = max(reached, key=lambda setting: reached[setting][0].true.mean)
    print(f"\n{run.name}: TRL's learning rate and lambda")
    for (rate, lam), (result, _) in sorted(reached.items()):
        print(f"  {rate:<8g} {lam:<5g} {result}{'   <- chosen' if (rate, lam) == best else ''}")
    if len(rates) > 1 and best[0] in (min(rates), max(rates)):
        print("  the best stands at an end of the sweep: widen --trl-learning-rates to be fair to TRL")
    print(flush=True)
    return best, reached[best][1]


@dataclass(frozen=True)
class Result:
    """What one policy reached on the held-out prompts; `rewards` are the true ones, prompt by prompt."""

    rewards: list[float]
    true: "Interval"
    proxy: "Interval"
    kl_nats: "Interval"

    def __str__(self) -> str:
        return "  ".join(plus_minus(value) for value in (self.true, self.proxy, self.kl_nats))


def judge(run: Path, policies: dict[str, Path]) -> dict[str, Result]:
    """The results of SFT and the policies: answers to the same prompts, sampled alike, as the kit's comparison does."""
    import torch

    from kit.compare.answers import answer_all, choose_prompts
    from kit.compare.statistics import mean_interval
    from kit.demo.world import truth_of_messages
    from kit.notices import quiet_libraries

    torch.set_num_threads(1)
    adapters = {"sft": run / "sft", **policies}
    with quiet_libraries():
        config, base, data = start_of(run)
        prompts = choose_prompts(data.prompts.held_out, config.compare.prompts, config.seed)
        arms = answer_all(config, base, prompts, adapters, run / "reward", costs={}, truth=truth_of_messages)
    results = {}
    for arm in arms:
        true, proxy = ([getattr(a, name) for a in arm.answers] for name in ("true_reward", "proxy_reward"))
        kl = [answer.kl_nats for answer in arm.answers]
        results[arm.name] = Result(true, *(mean_interval(values, config.seed) for values in (true, proxy, kl)))
    return results


def report(results: dict[int, dict[str, Result]]) -> int:
    """Print the table, the paired differences and the answer; 1 where the kit's mean over the seeds is below TRL's."""
    from kit.compare.statistics import mean_difference

    print(f"{'seed':4}  {'policy':10}  {'true reward':>13}  {'proxy reward':>13}  {'KL, nats':>13}")
    differences = []
    for seed, by_name in results.items():
        for name, label in NAMES.items():
            print(f"{seed:<4}  {label:10}  {by_name[name]}")
        difference = mean_difference(by_name["kit"].rewards, by_name["trl"].rewards, seed)
        print(f"{seed:<4}  {'kit - TRL':10}  {plus_minus(difference)}")
        differences.append(difference.mean)
    luck = ""
    if len(differences) > 1:
        luck = f", standard error over seeds {statistics.stdev(differences) / len(differences) ** 0.5:.2f}"
    means = {name: statistics.mean(by[name].true.mean for by in results.values()) for name in NAMES}
    behind = means["kit"] < means["trl"]
    print(f"mean  true reward over {len(results)} seeds: " + ", ".join(f"{NAMES[n]} {means[n]:.2f}" for n in NAMES))
    print(f"      the kit's PPO is {'BELOW' if behind else 'at least'} TRL's: {means['kit'] - means['trl']:+.2f}{luck}")
    return int(behind)


def plus_minus(value: "Interval") -> str:
    """Mean and half the width of its 95 % interval."""
    return f"{value.mean:6.2f} ± {(value.high - value.low) / 2:4.2f}"


def start_of(run: Path) -> tuple:
    """(config, base, data as ids) of a run of the kit. Imports no TRL, so both processes take their start from here."""
    from kit.data import load_data
    from kit.models.base import find_base
    from kit.models.encoding import encode_data
    from kit.preflight import load_config

    config = load_config(run / "config.yaml")
    base = find_base(config)
    return config, base, encode_data(load_data(config.data, config.seed), base.codec, config.data)


# ---- in a process of its own, where `import trl` is 1.12 --------------------------------------------------------


def train_trl(run: Path, setting: tuple[float, float], out: Path) -> None:
    """Train with TRL's own PPOTrainer from the run's SFT and reward adapters; write the policy to `out`.

    Policy, value and reward stand on three copies of the base. On one shared base, the switch to the reference adapter
    would freeze the value's, and TRL would not run as it was made to.
    """
    import torch
    import trl
    from datasets import Dataset
    from transformers import set_seed
    from trl.experimental.ppo import PPOTrainer

    from kit.models.adapters import add_adapter, load_policy, new_reward, save_adapter

    if trl.__version__ != TRL_VERSION:
        raise SystemExit(f"found TRL {trl.__version__} at {trl.__file__}, wanted {TRL_VERSION}")
    torch.set_num_threads(1)
    config, base, data = start_of(run)
    set_seed(config.seed)
    policy = load_policy(base.causal_lm(), run / "sft")
    add_adapter(policy, "ref", run / "sft")
    # TRL looks for `.model` and `.score`, which the classifier has and its PEFT wrapper hides; the LoRA layers stay.
    value = new_reward(base.scorer(), run / "reward").get_base_model()
    reward = new_reward(base.scorer(), run / "reward").get_base_model().requires_grad_(False)
    trainer = PPOTrainer(
        args=trl_arguments(config, base, setting, out),
        processing_class=base.tokenizer,
        model=policy,
        ref_model=None,  # the adapter `ref`
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": prompt.ids} for prompt in data.prompts.train]),
    )
    trainer.train()
    check_as_agreed(trainer, config)
    save_adapter(policy, out, base.tokenizer, f"Trained by TRL {TRL_VERSION} for benchmarks/{Path(__file__).name}.\n")


def trl_arguments(config, base, setting: tuple[float, float], out: Path):
    """The kit's PPO settings under TRL's names.

    TRL takes an optimizer step every `gradient_accumulation_steps` micro-batches, and a pass over the rollout has just
    so many: with accumulation it steps once a pass, whatever `num_mini_batches` says. Without accumulation, each
    mini-batch is one micro-batch and one step, as in the kit. Both lower the learning rate linearly to 0, the kit at
    every step, TRL after every rollout.
    """
    from trl.experimental.ppo import PPOConfig

    ppo = config.ppo
    same = ("num_mini_batches", "num_ppo_epochs", "kl_coef", "cliprange", "cliprange_value", "vf_coef", "gamma",
            "temperature", "missing_eos_penalty", "whiten_rewards")  # fmt: skip
    return PPOConfig(
        **{name: getattr(ppo, name) for name in same},
        output_dir=str(out),
        seed=config.seed,
        learning_rate=setting[0],
        lam=setting[1],
        total_episodes=ppo.episodes,
        per_device_train_batch_size=ppo.rollout_size,
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=ppo.rollout_size,
        response_length=config.data.max_response_tokens,
        stop_token="eos",
        model_adapter_name="default",
        ref_adapter_name="ref",
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        lr_scheduler_type="linear",
        gradient_checkpointing=False,
        **base.precision.trainer_flags,
    )


def check_as_agreed(trainer, config) -> None:
    """Stop where the comparison would not be a fair one: another start, or more or fewer steps than the kit took."""
    ppo, first = config.ppo, trainer.state.log_history[0]
    rollouts = -(-ppo.episodes // ppo.rollout_size)
    wanted = {
        "steps": rollouts * ppo.num_ppo_epochs * ppo.num_mini_batches,
        "episodes": rollouts * ppo.rollout_size,
    }
    states = trainer.optimizer.state.values()
    found = {"steps": int(max(state["step"] for state in states)), "episodes": trainer.state.episode}
    if found != wanted or not abs(first["objective/kl"]) < 1e-2:
        raise SystemExit(f"wanted {wanted} from KL 0; TRL took {found} from KL {first['objective/kl']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
