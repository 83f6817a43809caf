"""The settings of a run: pydantic models whose fields say their unit, their range and their reason.

Names follow TRL's. `batch_size` is always what one optimizer step sees; `micro_batch_size` only trades
memory for time and never changes the result. Anything else of the TRL config under a stage goes into that
stage's `trl:` mapping. Reading a file, and telling where in it a problem stands, is `config_file.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

Stage = Literal["sft", "reward", "ppo", "rloo", "grpo", "dpo", "compare"]
STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo", "rloo", "grpo", "dpo", "compare")
DEFAULT_STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo", "dpo", "compare")
NEEDS = {
    "sft": (), "reward": ("sft",), "ppo": ("sft", "reward"), "rloo": ("sft", "reward"), "grpo": ("sft", "reward"),
    "dpo": ("sft",), "compare": ("sft",),
}  # fmt: skip
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TRACKERS = ("none", "wandb", "tensorboard", "trackio")


def _no_boolean(value: Any) -> Any:
    """Refuse true and false where a number is wanted; pydantic alone would read them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, found a boolean")
    return value


Int = Annotated[int, BeforeValidator(_no_boolean)]
Float = Annotated[float, BeforeValidator(_no_boolean)]


def _auto_or_count(value: Any) -> Any:
    """`auto` or a whole number from 1; one message for both."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"auto or a whole number from 1 is wanted, found {value!r}")


MicroBatch = Annotated[Any, BeforeValidator(_auto_or_count)]


def _text_or_texts(value: Any) -> Any:
    """One name or a list of names; one message for both."""
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(text, str) and text for text in texts):
        return value
    raise ValueError(f"a name or a list of names is wanted, found {value!r}")


def _trackers(value: Any) -> Any:
    """Trackers the kit knows; transformers would refuse another one only when the first stage starts."""
    unknown = [name for name in ([value] if isinstance(value, str) else _text_or_texts(value)) if name not in TRACKERS]
    if unknown:
        raise ValueError(f"one or more of {', '.join(TRACKERS)} is wanted, found {unknown[0]!r}")
    return value


Texts = Annotated[str | list[str], BeforeValidator(_text_or_texts)]
Trackers = Annotated[str | list[str], BeforeValidator(_trackers)]


Snapshots = Annotated[
    Int,
    Field(ge=0, description="Adapters kept along the way, beside the last one, for the curve of reward against KL."),
]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot change afterwards, NaN is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def _absolute(text: str) -> str:
    """The absolute path of what exists here; anything else (`demo`, a hub id, a mistake) as it stands."""
    try:
        path = Path(text).expanduser()
        return str(path.resolve()) if text != "demo" and path.exists() else text
    except (OSError, RuntimeError, ValueError):  # too long for a path, a home that nobody has, a NUL character
        return text


class ModelSettings(Settings):
    """The base model: in memory once, quantised once, adapted by every stage."""

    base: str = Field("demo", min_length=1, description="Hub id, local folder, or `demo` for the built-in tiny model.")
    revision: str | None = Field(
        None, description="Commit or tag of a hub id; null takes the newest, and a run stays with it."
    )
    quantization: Literal["auto", "nf4", "none"] = Field(
        "auto", description="nf4: 4-bit NormalFloat with double quantisation. auto: nf4 on a CUDA GPU, none on a CPU."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Compute dtype. auto: bfloat16 where the GPU has it, float16 on older ones, float32 on CPU."
    )

    @field_validator("base")
    @classmethod
    def _absolute_if_local(cls, base: str) -> str:
        """A folder is kept as an absolute path, so that adapters load from any working directory."""
        return _absolute(base)


class LoraSettings(Settings):
    """The LoRA adapter every stage trains; all stages share its shape."""

    rank: Int = Field(16, ge=1, le=1024, description="Rank of the update; parameters grow in proportion.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the adapter that is trained. bfloat16 halves it, and loses updates below 1 in 256."
    )
    alpha: Float = Field(32, gt=0, description="The update is scaled by alpha / rank.")
    dropout: Float = Field(0.05, ge=0, lt=1, description="Dropout on the adapter's input; SFT only, as in TRL.")
    targets: Texts = Field("all-linear", description="Module names to adapt, or all-linear (never the head).")


PreferenceFormat = Literal["auto", "judgements", "pairs", "trees", "comparisons", "lists", "labels", "ratings"]


class SourceSettings(Settings):
    """A data source with its particulars; a plain string stands for `path` alone."""

    path: str = Field(min_length=1, description="File, folder written by `datasets`, hub id, or `demo`.")
    split: str | None = Field(None, description="Split of a hub id or saved folder; null takes train.")
    name: str | None = Field(None, description="Configuration of a hub id.")
    revision: str | None = Field(None, description="Commit or tag of a hub id.")
    weight: Float | None = Field(
        None, gt=0, description="Share of the training rows, as a ratio to the other sources' weights; null: by size."
    )
    columns: dict[str, str] | None = Field(None, description="As data.columns, in its place for this source.")
    format: PreferenceFormat | None = Field(None, description="As data.format, in its place for this source.")


def is_source_list(value: Any) -> bool:
    """Whether a value is a list of several sources (paths, hub ids, mappings with `path`), not of rows."""
    return isinstance(value, list) and bool(value) and all(map(_names_source, value))


def _names_source(item: Any) -> bool:
    if isinstance(item, Mapping):
        return isinstance(item.get("path"), str) and not item.keys() & {"prompt", "chosen", "messages", "text"}
    return isinstance(item, (str, Path))


def _source(value: Any) -> Any:
    """A source is a path or hub id, a mapping with `path`, a list of these, or rows in memory; local paths become
    absolute."""
    if isinstance(value, Mapping):
        value = SourceSettings(**value).model_dump()
        return {**value, "path": _source(value["path"])}
    if isinstance(value, str):
        return _absolute(value)
    if is_source_list(value):
        return [_source(item) for item in value]
    if value is None or isinstance(value, list) or hasattr(value, "column_names"):
        return value
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    raise ValueError("a path, a hub id, a mapping with `path`, or a list of rows is wanted")


Source = Annotated[Any, BeforeValidator(_source)]


class DataSettings(Settings):
    """Where the people's preferences come from, and how much of each text is used."""

    demonstrations: Source = Field(None, description="Data for SFT; null uses the chosen side of the training pairs.")
    preferences: Source = Field("demo", description="Pairs of a chosen and a rejected answer; `demo` generates them.")
    prompts: Source = Field(None, description="Prompts for PPO; null uses the prompts of the training pairs.")
    columns: dict[str, str] = Field(
        {}, description="The kit's names of columns to yours, e.g. {chosen: winner}; in sources that have yours."
    )
    format: PreferenceFormat = Field(
        "auto", description="Form of the preferences. auto: recognised; set it where two forms fit."
    )
    best_value: Literal["auto", "lowest", "highest"] = Field(
        "auto", description="Which rank or rating is best. auto: the lowest rank, the highest rating or score."
    )
    min_margin: Float = Field(
        0.0,
        ge=0,
        description="Answers of a prompt whose ratings differ by less make no pair; in units of the rating.",
    )
    standardize_ratings: bool = Field(
        False, description="Each person's ratings less their mean and by their deviation, before answers are compared."
    )
    votes: Literal["auto", "majority", "each", "reliability"] = Field(
        "auto",
        description="Several votes on one pair of answers. majority: one pair; each: a pair a vote; "
        "reliability: one pair, each person's votes weighed by how far the others' bear them out. "
        "auto: majority where the data say who voted, else each.",
    )
    prompt_weights: Literal["equal", "pairs"] = Field(
        "equal",
        description="equal: every prompt with ranked or rated answers gives the same number of training pairs; "
        "pairs: every ordered pair counts once.",
    )
    skip_bad_rows: Int = Field(0, ge=0, description="Malformed rows of a source that are left out, with a notice.")
    eval_fraction: Float = Field(0.1, gt=0, lt=1, description="Share of prompts held out from all training.")
    max_prompt_tokens: Int = Field(512, ge=8, description="Longer prompts lose their oldest turns, or are dropped.")
    max_response_tokens: Int = Field(512, ge=1, description="Longer responses are cut; PPO samples at most this many.")


class TrainerSettings(Settings):
    """What every training stage has in common."""

    learning_rate: Float = Field(2e-4, gt=0, lt=1, description="Peak learning rate of AdamW.")
    batch_size: Int = Field(32, ge=1, description="Examples one optimizer step sees (the effective batch size).")
    micro_batch_size: MicroBatch = Field(
        "auto",
        description="Examples in memory at once; divides batch_size; trades memory for time, nothing else. auto: the "
        "most that fits the memory that is free, within 4,096 tokens.",
    )
    trl: dict[str, JsonValue] = Field(default_factory=dict, description="Further arguments of the stage's TRL config.")

    @field_validator("micro_batch_size")
    @classmethod
    def _divides_batch_size(cls, micro: Any, others: ValidationInfo) -> Any:
        batch = others.data.get("batch_size")  # absent where it has a problem of its own
        if micro != "auto" and batch and batch % micro:
            divisors = [d for d in range(1, batch + 1) if batch % d == 0]
            raise ValueError(f"{micro} does not divide batch_size {batch}; possible: {divisors}")
        return micro


class EpochSettings(TrainerSettings):
    """A stage that passes over a fixed data set."""

    epochs: Float = Field(1.0, gt=0, description="Passes over the training data.")
    max_steps: Int | None = Field(None, ge=1, description="Stop after this many optimizer steps; null: after `epochs`.")


class SFTSettings(EpochSettings):
    """Supervised fine-tuning on demonstrations; the loss is on the response alone."""


class RewardSettings(EpochSettings):
    """The reward model: a Bradley-Terry score learnt from the pairs. Defaults that differ: learning_rate."""

    learning_rate: Float = Field(1e-4, gt=0, lt=1, description="Peak learning rate of AdamW.")
    center_rewards_coefficient: Float | None = Field(
        0.01, ge=0, description="Pulls the mean score to 0 (TRL's name; Eisenstein et al. 2023, eq. 2). null: off."
    )
    margin: Float = Field(
        0.0,
        ge=0,
        description="Score units that two answers are to lie apart for each unit that people rated them apart, so that "
        "clear verdicts weigh more (Llama 2, eq. 2). 0: off. For data with ratings, scores or a column `margin`.",
    )


class DPOSettings(EpochSettings):
    """Direct preference optimisation on the same pairs. Defaults that differ: learning_rate."""

    learning_rate: Float = Field(2e-5, gt=0, lt=1, description="Peak learning rate of AdamW.")
    beta: Float = Field(0.1, gt=0, description="Strength of the pull towards the SFT policy, per nat.")
    snapshots: Snapshots = 4


class PPOSettings(TrainerSettings):
    """PPO on the reward adapter's score. Names follow TRL 1.12's PPOConfig, and TRL's RLOOConfig where that had none.

    One rollout samples batch_size x num_mini_batches responses; each is used num_ppo_epochs times.
    Defaults that differ: learning_rate, batch_size. Its length is `episodes`, not epochs.
    """

    learning_rate: Float = Field(1e-5, gt=0, lt=1, description="Peak learning rate of AdamW.")
    batch_size: Int = Field(16, ge=1, description="Responses one optimizer step sees (a mini-batch).")
    episodes: Int = Field(10_000, ge=1, description="Responses sampled in all, rounded up to whole rollouts.")
    num_mini_batches: Int = Field(4, ge=1, description="Optimizer steps per PPO epoch; a rollout is that many batches.")
    num_ppo_epochs: Int = Field(4, ge=1, description="Passes over each rollout.")
    kl_coef: Float = Field(0.05, ge=0, description="Weight of the per-token KL penalty, in score units per nat.")
    kl_estimator: Literal["k1", "k3"] = Field("k1", description="Estimate of a token's KL: log p/q, or q/p-1-log q/p.")
    kl_control: Literal["fixed", "adaptive"] = Field("fixed", description="adaptive: kl_coef follows target_kl.")
    target_kl: Float = Field(6.0, gt=0, description="Sequence KL in nats that adaptive control holds.")
    kl_horizon: Int = Field(10_000, ge=1, description="Episodes over which adaptive control takes effect.")
    cliprange: Float = Field(0.2, gt=0, lt=1, description="The policy's probability ratio is clipped to 1 +- this.")
    cliprange_value: Float = Field(0.2, gt=0, description="A new value moves at most this far from the old one.")
    vf_coef: Float = Field(0.1, ge=0, description="Weight of the value loss.")
    gamma: Float = Field(1.0, gt=0, le=1, description="Discount per token.")
    lam: Float = Field(0.95, ge=0, le=1, description="GAE's lambda.")
    temperature: Float = Field(1.0, gt=0, description="Sampling temperature; log-probabilities use the same one.")
    critic: Literal["adapter", "shared"] = Field(
        "adapter", description="adapter: its own, started from the reward model; shared: a head on the policy, cheaper."
    )
    critic_learning_rate: Float | None = Field(None, gt=0, lt=1, description="Of the critic; null: learning_rate.")
    critic_warmup_rollouts: Int = Field(0, ge=0, description="First rollouts that train the critic alone.")
    reward_funcs: dict[str, Float] = Field(
        {"reward_model": 1.0},
        min_length=1,
        description="Rewards and their weights: reward_model, or a function as file.py:name or package.module:name.",
    )
    normalize_rewards: bool = Field(False, description="Scores less their mean, by their deviation, over all so far.")
    reward_clip_range: tuple[Float, Float] | None = Field(None, description="Scores are clipped to [low, high].")
    missing_eos_penalty: Float | None = Field(
        1.0, description="Subtracted from the score of a cut-off response, after normalising and clipping."
    )
    whiten_rewards: bool = Field(False, description="Scale the rewards of a rollout to variance 1 (mean kept).")
    whiten_advantages: bool = Field(True, description="Advantages of a rollout to mean 0 and variance 1.")
    rollout_batch_size: MicroBatch = Field(
        "auto",
        description="Responses generated at once; another value draws other samples. auto: the whole rollout, or what "
        "fits.",
    )
    scoring_batch_size: MicroBatch = Field(
        "auto", description="Responses scored at once, without gradients; trades memory for time, nothing else."
    )
    max_kl: Float = Field(100.0, gt=0, description="Sequence KL in nats above which the guard `kl` warns, then stops.")
    force: bool = Field(False, description="Go on with a reward model that is too weak, against the kit's advice.")
    guards_off: list[Literal["kl", "negative_kl", "eos", "length", "entropy", "critic"]] = Field(
        [], description="Guards that must not act. Numbers that are not finite always stop."
    )
    snapshots: Snapshots = 4

    @field_validator("reward_funcs")
    @classmethod
    def _absolute_files(cls, funcs: dict[str, float]) -> dict[str, float]:
        """Paths of files are kept absolute, so that a run can be repeated from any working directory."""
        places = {spec: spec.rpartition(":") for spec in funcs}
        return {
            f"{_absolute(place)}:{name}" if place.endswith(".py") else spec: funcs[spec]
            for spec, (place, _, name) in places.items()
        }

    @field_validator("reward_clip_range")
    @classmethod
    def _low_to_high(cls, clip: Any) -> Any:
        if clip is not None and clip[0] >= clip[1]:
            raise ValueError(f"[{clip[0]}, {clip[1]}]: the first must be below the second")
        return clip

    @property
    def needs_reward_model(self) -> bool:
        """Whether the reward adapter's score is among the rewards."""
        return self.reward_funcs.get("reward_model", 0) != 0

    @property
    def rollout_size(self) -> int:
        """Responses sampled between two updates of the old policy."""
        return self.batch_size * self.num_mini_batches


class OnlineSettings(TrainerSettings):
    """What RLOO and GRPO have in common: groups of responses to one prompt, scored by the reward adapter, no critic.

    One rollout samples batch_size responses, num_generations to a prompt; each is used num_iterations times, all of
    them in one optimizer step. Names follow TRL's RLOOConfig and GRPOConfig, but for PPO's kl_coef (TRL: beta) and
    episodes. What stands nowhere here is TRL's default: the policy's ratio is clipped to 1 +- 0.2 (epsilon).
    Defaults that differ: learning_rate, batch_size.
    """

    learning_rate: Float = Field(1e-5, gt=0, lt=1, description="Peak learning rate of AdamW.")
    batch_size: Int = Field(16, ge=1, description="Responses one optimizer step sees, and one rollout samples.")
    episodes: Int = Field(10_000, ge=1, description="Responses sampled in all, rounded up to whole rollouts.")
    num_generations: Int = Field(
        4, ge=2, validate_default=True, description="Responses to one prompt; divides batch_size."
    )
    num_iterations: Int = Field(1, ge=1, description="Optimizer steps that use one rollout.")
    kl_coef: Float = Field(0.05, ge=0, description="Weight of the KL penalty. 0: no reference, no KL in the metrics.")
    temperature: Float = Field(1.0, gt=0, description="Sampling temperature; log-probabilities use the same one.")
    missing_eos_penalty: Float | None = Field(1.0, description="Subtracted from the score of a cut-off response.")
    rollout_batch_size: MicroBatch = Field(
        "auto",
        description="Responses generated at once; another value draws other samples. auto: the whole rollout, or what "
        "fits.",
    )
    snapshots: Snapshots = 4

    @field_validator("num_generations")
    @classmethod
    def _divides_a_rollout(cls, group: int, others: ValidationInfo) -> int:
        batch = others.data.get("batch_size")  # absent where it has a problem of its own
        if batch and batch % group:
            raise ValueError(f"{group} does not divide batch_size {batch}; a rollout holds whole groups")
        return group


class RLOOSettings(OnlineSettings):
    """RLOO: the mean score of the group's other responses is the baseline (Ahmadian et al. 2024, arXiv:2402.14740).

    TRL's defaults: the KL penalty is part of the reward, in score units per nat of the whole response, as in PPO; one
    ratio per response, not per token; advantages are not normalised (normalize_advantages).
    """


class GRPOSettings(OnlineSettings):
    """GRPO: scores less their group's mean, by its deviation (Shao et al. 2024, arXiv:2402.03300).

    TRL's defaults: a mean over all tokens (loss_type dapo), a ratio per token, scale_rewards group. The KL penalty is a
    term of the loss (the estimate k3), beside scores in units of their group's deviation, so kl_coef weighs otherwise
    than in PPO and RLOO. TRL's own beta is 0.
    """


JUDGES = ("auto", "truth", "held_out", "reward_model", "llm", "human")


def ab_folder(run: str) -> Path:
    """Where the labelling project is in which people compare a run's arms, unless another is named: from here."""
    return Path("labels") / f"{run}-ab"


def _judge(value: Any) -> Any:
    """A judge's name, a file of votes, a function, or the folder of a labelling project; paths become absolute."""
    if isinstance(value, str):
        place, _, function = value.rpartition(":")
        if value in JUDGES:
            return value
        if value.endswith((".jsonl", ".csv")):
            return _absolute(value)
        if place and function.isidentifier():
            return f"{_absolute(place)}:{function}" if place.endswith(".py") else value
        if _may_be_project(value):
            return str(Path(value).expanduser().resolve())
    raise ValueError(
        f"{', '.join(JUDGES)}, a file of votes (.jsonl or .csv), the folder of a labelling project (labels/mine-ab), "
        f"or a function as file.py:name or package.module:name is wanted, found {value!r}"
    )


def _may_be_project(judge: str) -> bool:
    """Whether a judge may be the folder of a labelling project, there or not: a path of no file, function or module."""
    last = judge.rpartition("/")[2]
    return "/" in judge and bool(last) and ":" not in last and not last.endswith((".jsonl", ".csv", ".py", ".json"))


class LLMSettings(Settings):
    """A language model as judge: behind an OpenAI-compatible endpoint, or loaded here with transformers."""

    model: str = Field(min_length=1, description="The endpoint's name of the model; without one, a hub id or folder.")
    base_url: str | None = Field(
        None, pattern=r"^https?://", description="Of the endpoint, e.g. http://localhost:8000/v1; null: transformers."
    )
    api_key_env: str = Field("OPENAI_API_KEY", min_length=1, description="Environment variable that holds the key.")
    workers: Int = Field(8, ge=1, le=256, description="Requests to the endpoint at once.")
    timeout_seconds: Float = Field(60, gt=0, description="For one answer of the endpoint.")
    max_retries: Int = Field(4, ge=0, description="Of a request that failed for a reason that may pass.")
    template: str | None = Field(
        None, description="Text file with {prompt}, {answer_a} and {answer_b}; null: the kit's own question."
    )

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        """A key that was put here instead of its variable's name is not repeated in the message."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("the name of an environment variable is wanted, e.g. OPENAI_API_KEY; never the key itself")
        return name

    @field_validator("template")
    @classmethod
    def _absolute_template(cls, template: str | None) -> str | None:
        return template and _absolute(template)


class CompareSettings(Settings):
    """How the arms are compared on held-out prompts."""

    prompts: Int = Field(200, ge=1, description="Held-out prompts every arm answers (fewer if there are fewer).")
    validation_prompts: Int = Field(
        100, ge=0, description="Further held-out prompts, at most a quarter of all, for checkpoints and curves."
    )
    judge: Annotated[str, BeforeValidator(_judge)] = Field(
        "auto",
        description="Who judges: truth (demo world), held_out (a reward model trained on pairs that no arm saw), "
        "reward_model (never where an arm was trained on it), llm, human (people, in labels/<run>-ab; or the folder of "
        "another such project), a file of votes, or a function. "
        "auto: the truth where it is known, else held_out.",
    )
    judge_fraction: Float = Field(
        0.2, gt=0, lt=1, description="Share of the training prompts whose pairs are kept for the judge held_out alone."
    )
    llm: LLMSettings | None = Field(None, validate_default=True, description="The model behind judge llm.")
    best_of: Int = Field(
        4, ge=0, description="n of the controls best_of_n and longest_of_n, drawn from SFT; 0 or 1: none."
    )
    seeds: Int = Field(1, ge=1, le=20, description="Trainings per arm, with seed, seed + 1, …; all from one SFT.")
    checkpoint: Literal["last", "best"] = Field(
        "last", description="Which of an arm's policies is judged: the last, or the judge's best on validation prompts."
    )
    temperature: Float = Field(1.0, ge=0, description="Decoding temperature of every arm; 0 is greedy.")
    batch_size: Int = Field(32, ge=1, description="Answers generated or scored at once.")

    @field_validator("checkpoint")
    @classmethod
    def _best_of_one_training(cls, checkpoint: str, others: ValidationInfo) -> str:
        if checkpoint == "best" and others.data.get("seeds", 1) > 1:
            raise ValueError("best is chosen for one training seed; use compare.seeds: 1, or checkpoint: last")
        return checkpoint

    @field_validator("llm")
    @classmethod
    def _llm_is_described(cls, llm: LLMSettings | None, others: ValidationInfo) -> LLMSettings | None:
        if llm is None and others.data.get("judge") == "llm":
            raise ValueError("judge llm needs to know the model: compare.llm: {model: …, base_url: …}")
        return llm


class Config(Settings):
    """A whole run. See docs and configs/ for examples; every field has a default that runs the demo."""

    name: str = Field("quickstart", pattern=NAME_PATTERN, description="The run folder is output_dir/name.")
    output_dir: str = Field("runs", min_length=1, description="Folder that holds run folders.")
    seed: Int = Field(0, ge=0, lt=2**32, description="Seeds everything; same seed, same run on a CPU.")
    memory: Literal["lean", "balanced", "fast"] = Field(
        "balanced",
        description="What memory is spent on. fast: time; lean: as little as can be (8-bit AdamW, the input embedding "
        "on the host, always checkpointing); balanced: checkpointing where the card is too small without.",
    )
    stages: list[Stage] = Field(
        list(DEFAULT_STAGES),
        min_length=1,
        description="Which stages run; always in the order sft, reward, ppo, rloo, grpo, dpo, compare.",
    )
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    data: DataSettings = DataSettings()
    sft: SFTSettings = SFTSettings()
    reward: RewardSettings = RewardSettings()
    ppo: PPOSettings = PPOSettings()
    rloo: RLOOSettings = RLOOSettings()
    grpo: GRPOSettings = GRPOSettings()
    dpo: DPOSettings = DPOSettings()
    compare: CompareSettings = CompareSettings()
    report_to: Trackers = Field("none", description="Trackers: wandb, tensorboard, trackio, or none.")

    @field_validator("stages")
    @classmethod
    def _stages_have_what_they_need(cls, stages: list[str]) -> list[str]:
        missing = [f"{stage} needs stage {need}" for stage in stages for need in NEEDS[stage] if need not in stages]
        if missing:
            raise ValueError("; ".join(dict.fromkeys(missing)) + "; add it to `stages` (a finished stage is not rerun)")
        return [stage for stage in STAGES if stage in stages]

    @property
    def people(self) -> Path | None:
        """The labelling project of the people who judge the comparison; None where another judge is set."""
        judge = self.compare.judge
        if judge == "human":
            return ab_folder(self.name).resolve()
        return Path(judge) if _may_be_project(judge) else None

    @property
    def run_path(self) -> Path:
        """Absolute path of the run folder; a link in its place is not followed, and refused when a run starts."""
        return Path(self.output_dir).expanduser().resolve() / self.name
