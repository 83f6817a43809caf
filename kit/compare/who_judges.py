"""Who judges the comparison: decided by the settings and the held-out prompts, before anything is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.compare.judges.people import find_people
from kit.config import Config
from kit.data import Data, Prompt, load_data
from kit.data.found import Stops
from kit.data.split import keep_for_judge
from kit.demo.world import is_demo_prompt
from kit.errors import ConfigError, DataError
from kit.runs.folder import RunFolder

if TYPE_CHECKING:
    from kit.models.encoding import EncodedPrompt

TRUTH, HELD_OUT, REWARD_MODEL, LLM = "truth", "held_out", "reward_model", "llm"
VOTES, HUMAN, FUNCTION = "votes", "human", "function"
PROXY_OPTIMISERS = ("ppo", "rloo", "grpo")  # stages trained on the reward model's score
FEWEST_JUDGE_PAIRS = 20


def judge_of(config: Config, prompts: Sequence["Prompt | EncodedPrompt"]) -> str:
    """Who judges the answers to these held-out prompts: what is set or, for auto, the truth where it is known.

    The truth is known when every prompt is a question of the demo world; else a reward model judges that was trained
    on pairs no arm saw. Raises ConfigError for a judge that this run cannot have: the reward model that an arm was
    trained on is never its judge.
    """
    wanted, known = config.compare.judge, truth_is_known(prompts)
    if wanted == "auto":
        return TRUTH if known else HELD_OUT
    if wanted == TRUTH and not known:
        raise ConfigError("compare.judge truth: the truth is known in the demo world only; use auto or another judge")
    optimisers = [stage for stage in PROXY_OPTIMISERS if stage in config.stages]
    if wanted == REWARD_MODEL and optimisers:
        raise ConfigError(
            f"compare.judge reward_model: {', '.join(optimisers)} was trained on this very score, so it would judge "
            "its own pupil. Use auto, held_out, llm, human, votes or a function (the score is shown in any case)"
        )
    if wanted == REWARD_MODEL and "reward" not in config.stages:
        raise ConfigError("compare.judge reward_model: add stage `reward` to `stages`, or use another judge")
    if wanted in (TRUTH, HELD_OUT, REWARD_MODEL, LLM):
        return wanted
    if config.people is not None:
        find_people(config.people, config.run_path)
        return HUMAN
    if not wanted.endswith((".jsonl", ".csv")):
        return FUNCTION
    if not Path(wanted).is_file():
        raise ConfigError(f"compare.judge: no file of votes at {wanted}")
    return VOTES


def truth_is_known(prompts: Sequence["Prompt | EncodedPrompt"]) -> bool:
    """Whether every prompt is a question of the demo world."""
    return bool(prompts) and all(is_demo_prompt(prompt.messages) for prompt in prompts)


def trains_judge(config: Config, prompts: Sequence["Prompt | EncodedPrompt"]) -> bool:
    """Whether this run trains a reward model for the comparison alone."""
    return "compare" in config.stages and judge_of(config, prompts) == HELD_OUT


def load_run_data(config: Config, folder: RunFolder, stops: Stops | None = None) -> Data:
    """The data of a run; where a reward model judges, the pairs it learns from are kept out of everything else.

    They stay kept where the run's SFT adapter was trained without them, so that another judge asks for no training.
    `stops` may gather what would stop the run.
    """
    data = load_data(config.data, config.seed, stops)
    if "compare" not in config.stages or not data.pairs.train:
        return data
    wanted = trains_judge(config, data.prompts.held_out)
    sft = folder.stage("sft")
    if not wanted and sft is None:
        return data
    kept = keep_for_judge(data, config.compare.judge_fraction, config.seed)
    if not wanted:
        before = sft is not None and sft.inputs.get("data", {}).get("fingerprint") == kept.fingerprint
        return kept if before else data
    for name in ("demonstrations", "prompts"):
        if not getattr(kept, name).train:
            raise DataError(
                f"compare.judge held_out: the judge's pairs would leave no {name} to train on. Lower "
                "compare.judge_fraction, or use another judge: llm, human, a file of votes, or a function"
            )
    if len(kept.judge) < FEWEST_JUDGE_PAIRS:
        with (stops or Stops()).going_on():
            raise DataError(
                f"compare.judge held_out: {len(kept.judge)} pairs would be left for the judge to learn from, "
                f"{FEWEST_JUDGE_PAIRS} are wanted at least. Give more pairs, raise compare.judge_fraction, or use "
                "another judge: llm, human, a file of votes, or a function"
            )
    return kept
