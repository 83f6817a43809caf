"""Does the kit's PPO learn at least as much as the last PPO that TRL shipped (1.12)? Judged by the demo world's truth.

    python benchmarks/ppo_learning_vs_trl.py [--seeds 0 1 2] [--tuning-seeds 3 4 5]
                                             [--learning-rates 1.4e-3 7e-4 3.5e-4] [--lams 0.9 0.95] [--answers 4]

For every seed, the kit makes the SFT and the reward adapter of configs/quickstart.yaml. From these, the kit's PPO and
TRL's PPOTrainer, unmodified and in a process of its own, start alike: the same prompts, episodes, optimizer steps, KL
coefficient and other PPO settings. All policies answer held-out prompts, a seed's all the same with the same random
numbers, several times each: with one answer to each of 200 prompts, judging alone has a standard error of 0.09.

Tuning is equal: each side gets the same learning rates x lambdas of GAE, runs each once on every tuning seed, and keeps
the setting of the highest mean true reward there. Only then are the seeds of the report run; no seed serves both, so
neither side's setting was chosen by a number it is judged by. The sweep also shows both sides at equal settings, pair
by pair: more pairs than the report has seeds, and nothing chosen. All is on the CPU, in one thread: half an hour or
more for the default seeds. Finished stages of the kit are kept in build/learning while their settings and data are the
same, so remove that folder after a change of the kit's code; TRL's are trained anew.

Prints the sweep and the difference at equal settings; for each seed of the report and for SFT, TRL and the kit the true
reward, the reward model's score (proxy) and the KL from SFT in nats, each with its 95 % interval over prompts; and the
difference kit - TRL, paired by prompt. Exits with 1 where the kit's mean over these seeds is below TRL's.
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
    from kit.compare.numbers.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
TRL_VERSION = "1.12.0"  # the last release with PPOTrainer, at trl.experimental.ppo
TRL_FOLDER = ROOT / "build" / f"trl-{TRL_VERSION}"
RUNS = ROOT / "build" / "learning"
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SWEEP = (2, 1, 1 / 2)  # learning rates of both sides, in units of the quickstart's
DRAW = 1_000_003  # between the random seeds of a prompt's answers
NAMES = {"sft": "SFT", "trl": f"TRL {TRL_VERSION}", "kit": "kit"}
Setting = tuple[float, float]  # (learning rate, lambda of GAE)
Reached = dict[str, dict[Setting, dict[int, float]]]  # true reward by side, setting and tuning seed


# ---- in this process: the kit's runs, the sweep, the judging -----------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the report, after the tuning")
    parser.add_argument("--tuning-seeds", type=int, nargs="+", default=[3, 4, 5], help="settings are chosen on these")
    parser.add_argument("--learning-rates", type=float, nargs="+", help="default: the quickstart's x 2, 1, 1/2")
    parser.add_argument("--lams", type=float, nargs="+", help="default: the quickstart's and 0.95")
    parser.add_argument("--answers", type=int, default=4, help="to each held-out prompt; a prompt counts by their mean")
    parser.add_argument("--train-trl", nargs=4, metavar=("RUN", "RATE", "LAM", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # before torch is imported
    if arguments.train_trl:
        run, rate, lam, out = arguments.train_trl
        train_trl(Path(run), (float(rate), float(lam)), Path(out))
        return 0
    if set(arguments.seeds) & set(arguments.tuning_seeds):
        parser.error("a seed of the report must not be one that settings are chosen on")

    from kit.preflight import load_config

    install_trl()
    ppo = load_config(QUICKSTART).ppo
    rates = arguments.learning_rates or [factor * ppo.learning_rate for factor in SWEEP]
    settings = list(itertools.product(rates, arguments.lams or sorted({0.95, ppo.lam})))
    reached = sweep(arguments.tuning_seeds, settings, arguments.answers)
    chosen = {side: choose(by_setting) for side, by_setting in reached.items()}
    print_sweep(reached, chosen, (ppo.learning_rate, ppo.lam))
    results = {}
    for seed in arguments.seeds:
        start = run_start(seed)
        policies = {"trl": run_trl(start, chosen["trl"]), "kit": run_kit(start, chosen["kit"])}
        results[seed] = judge(start, policies, arguments.answers)
    return report(results)


def install_trl() -> None:
    """TRL's last release with PPO, in a folder of its own: the environment keeps the TRL that the kit needs."""
    if not (TRL_FOLDER / "trl").is_dir():
        print(f"installing trl=={TRL_VERSION} into {TRL_FOLDER.relative_to(ROOT)}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL_FOLDER)]
        subprocess.run([*pip, f"trl=={TRL_VERSION}"], check=True)


def run_start(seed: int) -> Path:
    """Folder with the SFT and the reward adapter of this seed, which both sides start from."""
    import kit

    stages = ["sft", "reward"]
    return kit.run_pipeline(QUICKSTART, output_dir=str(RUNS), name=f"seed-{seed}", seed=seed, stages=stages).path


def run_kit(start: Path, setting: Setting) -> Path:
    """Folder of the policy that the kit's `ppo` stage trains at this setting; SFT and reward are those of `start`."""
    import kit

    name = f"kit-{folder_name(start, setting)}"
    if not (RUNS / name).exists():
        shutil.copytree(start, RUNS / name)
    changes = {"stages": ["sft", "reward", "ppo"], "ppo": {"learning_rate": setting[0], "lam": setting[1]}}
    return kit.run_pipeline(start / "config.yaml", output_dir=str(RUNS), name=name, **changes).path / "ppo"


def run_trl(run: Path, setting: Setting) -> Path:
    """Folder of the policy that TRL trains at this setting, from the SFT and reward adapters of `run`."""
    rate, lam = setting
    out = RUNS / "trl" / folder_name(run, setting)
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


def folder_name(start: Path, setting: Setting) -> str:
    """Name of the folder of one training run."""
    return f"{start.name}-rate-{setting[0]:g}-lam-{setting[1]:g}"


def sweep(seeds: list[int], settings: list[Setting], answers: int) -> Reached:
    """The true reward that each side reaches at each setting on each tuning seed."""
    reached: Reached = {"trl": {s: {} for s in settings}, "kit": {s: {} for s in settings}}
    for seed in seeds:
        start = run_start(seed)
        for setting in settings:
            results = judge(start, {"trl": run_trl(start, setting), "kit": run_kit(start, setting)}, answers)
            for side, by_setting in reached.items():
                by_setting[setting][seed] = results[side].true.mean
    return reached


def choose(by_setting: dict[Setting, dict[int, float]]) -> Setting:
    """The rule, the same for both sides: the highest mean true reward over the tuning seeds."""
    return max(by_setting, key=lambda setting: statistics.mean(by_setting[setting].values()))


def print_sweep(reached: Reached, chosen: dict[str, Setting], shipped: Setting) -> None:
    """The means of both sides at every setting, what was chosen, and the paired difference at equal settings."""
    seeds = sorted(next(iter(reached["kit"].values())))
    print(f"\ntuning: mean true reward over seeds {', '.join(map(str, seeds))}")
    print(f"{'learning rate':>13}  {'lambda':>6}  {NAMES['trl']:>10}  {NAMES['kit']:>10}")
    for setting in sorted(reached["kit"]):
        cells = [statistics.mean(reached[side][setting].values()) for side in ("trl", "kit")]
        marks = [" *" if chosen[side] == setting else "  " for side in ("trl", "kit")]
        numbers = "  ".join(f"{cell:8.2f}{mark}" for cell, mark in zip(cells, marks, strict=True))
        print(f"{setting[0]:13g}  {setting[1]:6g}  {numbers}{'  (the quickstart)' if setting == shipped else ''}")
    rates = {rate for rate, _ in reached["kit"]}
    for side, (rate, _) in chosen.items():
        if len(rates) > 1 and rate in (min(rates), max(rates)):
            print(f"  {NAMES[side]}'s best stands at an end of the sweep: widen --learning-rates to be fair to it")
    pairs = equal_settings(reached)
    luck = f" ± {statistics.stdev(pairs) / len(pairs) ** 0.5:.2f} (standard error)" if len(pairs) > 1 else ""
    print(f"at equal settings, kit - TRL: {statistics.mean(pairs):+.2f}{luck} over {len(pairs)} pairs\n", flush=True)


def equal_settings(reached: Reached) -> list[float]:
    """kit - TRL for each setting and tuning seed: the same start, the same setting, nothing chosen."""
    return [
        true - reached["trl"][setting][seed]
        for setting, by_seed in reached["kit"].items()
        for seed, true in by_seed.items()
    ]


@dataclass(frozen=True)
class Result:
    """What one policy reached on the held-out prompts; `rewards` are the true ones, a prompt's answers averaged."""

    rewards: list[float]
    true: "Interval"
    proxy: "Interval"
    kl_nats: "Interval"

    def __str__(self) -> str:
        return "  ".join(plus_minus(value) for value in (self.true, self.proxy, self.kl_nats))


def judge(run: Path, policies: dict[str, Path], answers: int) -> dict[str, Result]:
    """The results of SFT and the policies: so many answers to each of the same prompts, sampled alike, as the kit's
    comparison samples them. Intervals are over prompts."""
    import torch

    from kit.compare.answers import TEST, Policy, answer_all, choose_prompts
    from kit.compare.numbers.statistics import mean_interval
    from kit.notices import quiet_libraries
    from kit.preflight import load_config

    torch.set_num_threads(1)
    adapters = {"sft": run / "sft", **policies}
    with quiet_libraries():
        config, base, data = start_of(run)
        config = load_config(config, compare={"best_of": 0})  # no controls
        prompts = {TEST: choose_prompts(data.prompts.held_out, config.compare.prompts, config.seed)}
        seeds = [config.seed + number * DRAW for number in range(answers)]
        of_arms = [(Policy(name, adapter, seed), TEST) for name, adapter in adapters.items() for seed in seeds]
        kept_nowhere = run / "answers-of-the-benchmark.jsonl"
        sheets = answer_all(config, base, prompts, of_arms, run / "sft", run / "reward", kept_nowhere)
    results = {}
    for name in adapters:
        by_prompt = list(zip(*(sheet.answers for sheet in sheets if sheet.arm == name), strict=True))
        true, proxy, kl = (
            [statistics.mean(getattr(answer, number) for answer in row) for row in by_prompt]
            for number in ("true_reward", "proxy_reward", "kl_nats")
        )
        results[name] = Result(true, *(mean_interval(values, config.seed) for values in (true, proxy, kl)))
    return results


def report(results: dict[int, dict[str, Result]]) -> int:
    """Print the table, the paired differences and the answer; 1 where the kit's mean over the seeds is below TRL's."""
    from kit.compare.numbers.statistics import mean_difference

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


def train_trl(run: Path, setting: Setting, out: Path) -> None:
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


def trl_arguments(config, base, setting: Setting, out: Path):
    """The kit's PPO settings under TRL's names.

    TRL takes an optimizer step every `gradient_accumulation_steps` micro-batches, and a pass over the rollout has just
    so many: with accumulation it steps once a pass, whatever `num_mini_batches` says. Without accumulation, each
    mini-batch is one micro-batch and one step, as in the kit. Both lower the learning rate linearly, once a rollout.
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
