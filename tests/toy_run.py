"""A finished run at toy size that nobody trained: adapters with weights that matter, and a comparison's files."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from toy import LORA, adapters, base_folder

import kit
from kit.config_file import dump_config
from kit.runs.folder import ADAPTER_FILE

ROWS = [{"prompt": f"Name {n} pets.", "chosen": f"A cat and {n} dogs.", "rejected": "No."} for n in range(40)]


def toy_run(place: Path) -> Path:
    """A run folder with the stages sft, dpo (another adapter on the same base) and reward, on rows of its own."""
    run = place / "runs" / "toy"
    run.mkdir(parents=True)
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"preferences": str(place / "rows.jsonl"), "eval_fraction": 0.25, "max_prompt_tokens": 64,
            "max_response_tokens": 6}  # fmt: skip
    config = kit.Config(
        name="toy", output_dir=str(run.parent), model={"base": str(base_folder())}, lora=LORA, data=data, seed=3,
        stages=["sft", "reward", "dpo"],
    )  # fmt: skip
    (run / "config.yaml").write_text(dump_config(config))
    (run / "run.json").write_text(json.dumps({"name": "toy", "status": "done", "versions": {}, "stages": {}}))
    sft, reward = adapters()
    for name, folder in (("sft", sft), ("dpo", sft), ("reward", reward)):
        shutil.copytree(folder, run / name)
        (run / name / "stage.json").write_text('{"inputs": {}, "seconds": 1.0, "peak_bytes": null, "metrics": {}}')
    shaken = {
        key: weight + 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
        for key, weight in load_file(run / "dpo" / ADAPTER_FILE).items()
    }
    save_file(shaken, run / "dpo" / ADAPTER_FILE)
    return run


ARMS = ("sft", "dpo", "ppo")


def toy_comparison(place: Path, prompts: int = 30, equal: int = 3, checkpoint: str = "last") -> Path:
    """A run folder with a comparison: PPO's answer to prompt i has i % 5 plums in it, DPO's two; the last prompts have
    equal answers."""
    run = place / "runs" / "toy"
    (run / "compare").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(kit.Config(name="toy", output_dir=str(run.parent), seed=3)))
    (run / "run.json").write_text(json.dumps({"name": "toy", "status": "done", "versions": {}, "stages": {}}))
    metrics = {"judge": "truth", "prompts": prompts, "arms": {arm: {"checkpoint": checkpoint} for arm in ARMS},
               "pairs": {"ppo_vs_dpo": {}}}  # fmt: skip
    (run / "compare" / "metrics.json").write_text(json.dumps(metrics))
    questions, answers = toy_answers(prompts, equal)
    rows = [
        {"prompt": question, "arms": {arm: {"text": answers[arm][i]} for arm in ARMS}}
        for i, question in enumerate(questions)
    ]
    (run / "compare" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def toy_answers(prompts: int = 30, equal: int = 3) -> tuple[list[list[dict[str, str]]], dict[str, list[str]]]:
    """The questions of that comparison, and each arm's answers."""
    questions = [[{"role": "user", "content": f"Question {i}?"}] for i in range(prompts)]
    answers = {
        "sft": ["Hm."] * prompts,
        "dpo": [f"No. {i}: {'plum ' * 2}".strip() for i in range(prompts)],
        "ppo": [f"No. {i}: {'plum ' * (i % 5)}".strip() for i in range(prompts)],
    }
    for i in range(prompts - equal, prompts):
        answers["ppo"][i] = answers["dpo"][i]
    return questions, answers
