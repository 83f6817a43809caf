"""How much of a stage is in memory at once: what the settings ask for, or the most that fits what is free now."""

from dataclasses import asdict, replace

from kit import notices
from kit.config import Config, Stage
from kit.models.base import Base
from kit.models.device import free_memory_bytes
from kit.models.plan.card import GIB
from kit.models.plan.choice import Choice, choose
from kit.models.plan.memory import Arithmetic
from kit.models.plan.stages import Sizes, stage_memory
from kit.runs.checkpoints import Checkpoints

_ASKED = ("micro_batch_size", "rollout_batch_size", "scoring_batch_size")


def machine_of(base: Base) -> Arithmetic:
    """What the plan has to know of where the base runs."""
    cuda = base.precision.device.type == "cuda"
    return Arithmetic(base.precision.dtype.itemsize, base.precision.nf4, True, cuda=cuda, context=cuda)


def choose_sizes(config: Config, stage: Stage, base: Base, longest: int, checkpoints: Checkpoints) -> Choice:
    """The plan's answer for the memory that is free, before the stage's base is loaded; said on a GPU.

    `longest` are the tokens of the longest row; chosen and rejected are two. A stage that goes on from a checkpoint
    keeps what it chose under the same settings, whatever is free now: in other sizes it would draw other samples.
    """
    shape, free = base.shape, free_memory_bytes(base.precision.device)
    choice = choose(config, shape, stage, free, machine_of(base), longest)
    asked = {name: getattr(getattr(config, stage), name, None) for name in _ASKED}
    before = checkpoints.before("sizes", {})
    if before.get("asked") == asked:
        how = replace(choice.how, checkpointing=before["checkpointing"])
        choice = Choice(Sizes(**before["chosen"]), how)
    checkpoints.facts["sizes"] = {
        "asked": asked, "chosen": asdict(choice.sizes), "checkpointing": choice.how.checkpointing,
    }  # fmt: skip
    if choice.how.cuda:
        needed = stage_memory(config, shape, stage, choice.sizes, choice.how).peak
        say = notices.say if needed <= free else notices.warn
        sampled = f", {choice.sizes.rollout} responses sampled at once" if choice.sizes.rollout else ""
        checkpointing = ", gradient checkpointing" if choice.how.checkpointing else ""
        say(
            f"{stage}: {choice.sizes.micro} of a batch of {getattr(config, stage).batch_size} at once{sampled}"
            f"{checkpointing}; {needed / GIB:.1f} GiB predicted, {free / GIB:.1f} GiB free"
        )
    return choice
