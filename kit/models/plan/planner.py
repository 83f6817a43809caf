"""`kit plan`: what a config needs of a card, what fits it, and what to change where it does not.

Nothing is downloaded but a config.json, no weights are loaded, and for the models of the table torch is not imported.
All numbers are predicted by the formulas of memory.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import notices
from kit.config import Config, ModelSettings, Stage
from kit.config_file import load_config
from kit.errors import ConfigError, MachineError, ModelError
from kit.models.outside import check_config, read_json
from kit.models.plan.advice import Change, advise, leanest, memories, stages_over
from kit.models.plan.card import GIB, Card, common_cards, find_card, named_card
from kit.models.plan.choice import choose, largest_micro_batch, largest_rollout_batch, on_gpu
from kit.models.plan.memory import Arithmetic, embedding_bytes, linear_bytes
from kit.models.plan.shape import Shape, shape_of
from kit.models.plan.stages import StageMemory
from kit.models.plan.table import MODELS

_OFF_BY = 1.1
PREDICTED = "predicted by adding up bytes; not measured on a GPU"


@dataclass(frozen=True)
class StagePlan:
    """A stage on a card: its memory, whether it fits, and the largest sizes that would (0: none; None: it has none).

    They leave a tenth of the card free. `largest_micro_batch` divides the stage's batch_size and makes at most 4,096
    tokens.
    """

    memory: StageMemory
    fits: bool
    largest_micro_batch: int | None
    largest_rollout_batch: int | None

    @property
    def stage(self) -> Stage:
        """The stage's name."""
        return self.memory.stage

    @property
    def peak_bytes(self) -> int:
        """Predicted peak, CUDA's context and the allocator's slack included."""
        return self.memory.peak


@dataclass(frozen=True)
class CardPlan:
    """A run on a card: its stages, what to change where one does not fit, and models that would fit instead."""

    card: Card
    stages: tuple[StagePlan, ...]
    changes: tuple[Change, ...]
    possible: bool  # with the changes, or without any
    instead: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every stage fits as it is configured."""
        return all(stage.fits for stage in self.stages)

    @property
    def peak(self) -> StagePlan:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def spare(self) -> float:
        """The share of the card that the largest stage leaves free; below 0 where it does not fit."""
        return 1 - self.peak.peak_bytes / self.card.bytes

    @property
    def advice(self) -> str:
        """What to do, in words; empty where all fits."""
        if self.fits:
            return ""
        over = ", ".join(stage.stage for stage in self.stages if not stage.fits)
        need = f"{over}: {self.peak.peak_bytes / GIB:.1f} GiB needed, {self.card.gib:.1f} GiB there"
        if self.possible:
            steps = [
                f"{' '.join(c.settings)}  (saves {c.saves_bytes / GIB:.1f} GiB; costs {c.costs})" for c in self.changes
            ]
            return "\n  ".join([f"{need}. It fits with, in order of least harm:", *steps])
        instead = f"What would fit: {'; '.join(self.instead)}" if self.instead else "No model of the table would fit"
        return f"{need}. No setting makes it fit. {instead}"


@dataclass(frozen=True)
class Plan:
    """A config's memory on one card or several, predicted."""

    base: str
    parameters: int
    cards: tuple[CardPlan, ...]

    @property
    def fits(self) -> bool:
        """Whether the run fits, as it is configured, on a card of the plan."""
        return any(card.fits for card in self.cards)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON; sizes in bytes."""
        return {
            "base": self.base,
            "parameters": self.parameters,
            "note": PREDICTED,
            "cards": [
                {
                    "name": card.card.name, "bytes": card.card.bytes, "fits": card.fits, "possible": card.possible,
                    "stages": {stage.stage: _stage_as_dict(stage) for stage in card.stages},
                    "changes": [vars(change) | {"settings": list(change.settings)} for change in card.changes],
                    "instead": list(card.instead),
                }
                for card in self.cards
            ],
        }  # fmt: skip


def _stage_as_dict(stage: StagePlan) -> dict[str, Any]:
    sizes = stage.memory.sizes
    return {
        "peak_bytes": stage.peak_bytes, "fits": stage.fits, "peak_pass": stage.memory.peak_pass,
        "items": stage.memory.items, "passes": stage.memory.passes,
        "micro_batch_size": sizes.micro or None, "largest_micro_batch": stage.largest_micro_batch,
        "rollout_batch_size": sizes.rollout or None, "largest_rollout_batch": stage.largest_rollout_batch,
    }  # fmt: skip


def plan(
    config: Config | str | Path | Mapping,
    overrides: Sequence[str] = (),
    gpu_memory_gib: float | None = None,
    **settings: Any,
) -> Plan:
    """What the config needs of a card of `gpu_memory_gib`; without it of the GPU here, or of cards of 8 to 24 GiB.

    Raises ConfigError for a wrong config, ModelError where the base's config.json cannot be had.
    """
    config = load_config(config, overrides, **settings)
    if gpu_memory_gib is not None and not 0 < gpu_memory_gib < 10_000:
        raise ConfigError(f"--gpu-memory-gib {gpu_memory_gib}: a number of GiB above 0 is wanted, e.g. 12")
    shape = base_shape(config.model)
    if gpu_memory_gib is not None:
        cards = [named_card(gpu_memory_gib)]
    else:
        here = find_card()
        cards = [here] if here else common_cards()
    return Plan(config.model.base, shape.parameters, tuple(plan_for_card(config, shape, card) for card in cards))


def plan_for_card(config: Config, shape: Shape, card: Card) -> CardPlan:
    """The plan of a config for one card."""
    found = memories(config, shape, card.bytes)
    stages = tuple(_stage_plan(config, shape, memory, card) for memory in found)
    if not stages_over(found, card.bytes):
        return CardPlan(card, stages, (), True, ())
    changes, possible = advise(config, shape, card.bytes)
    return CardPlan(card, stages, tuple(changes), possible, () if possible else tuple(_instead(config, card)))


def check_fits(config: Config, shape: Shape, card: Card) -> None:
    """Raise MachineError, with what to do, where a stage needs a tenth more than the card has.

    Within that tenth, by which the prediction may be off, it warns.
    """
    planned = plan_for_card(config, shape, card)
    text = f"{config.model.base} on {card.name}: {planned.advice} ({PREDICTED})"
    if planned.peak.peak_bytes > _OFF_BY * card.bytes:
        raise MachineError(text)
    if not planned.fits:
        notices.warn(text)


def check_weights_fit_host(config: Config, shape: Shape, host_bytes: int) -> None:
    """Raise MachineError where there is no GPU and the base's weights alone are more than the machine's memory."""
    element = 4 if config.model.dtype in ("auto", "float32") else 2
    how = Arithmetic(element, config.model.quantization == "nf4", False, cuda=False, context=False)
    weights = linear_bytes(shape, how) + embedding_bytes(shape, how)
    if weights > host_bytes:
        raise MachineError(
            f"{config.model.base}: its weights take {weights / GIB:.1f} GiB, this machine has {host_bytes / GIB:.1f} "
            "GiB of memory and no GPU was found. `kit plan CONFIG` says which cards it fits; take a smaller base, or a "
            "machine with a GPU"
        )


def base_shape(settings: ModelSettings) -> Shape:
    """The shape of a base: from the table, a folder's config.json, the hub's cache, or the hub.

    Raises ModelError where none of them has it; weights are never asked for.
    """
    name = settings.base
    if Path(name).is_dir():
        return shape_of(_read(Path(name) / "config.json", name), name)
    if name in MODELS:
        return shape_of(MODELS[name], name)
    return shape_of(_read(_from_hub(settings), name), name)


def _from_hub(settings: ModelSettings) -> Path:
    """The config.json of a hub id, from the cache, or downloaded where the hub answers."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from kit.models.tokenizer import hub_answers, model_error

    name, file = settings.base, "config.json"
    try:
        cached = try_to_load_from_cache(name, file, revision=settings.revision)
        if isinstance(cached, str):
            return Path(cached)
        if hub_answers(settings, name):
            return Path(hf_hub_download(name, file, revision=settings.revision))
    except HFValidationError as error:
        raise model_error(settings, error) from None
    except Exception as error:  # each HTTP library has its own classes
        raise model_error(settings, error) from None
    raise ModelError(
        f"model.base {name}: not in the kit's table of models, not in the local cache, and the hub could not be "
        "reached. `kit plan` needs the model's config.json alone, no weights: give a folder that holds it"
    )


def _read(file: Path, name: str) -> dict[str, Any]:
    found = read_json(file, f"model.base {name}")
    check_config(found, f"model.base {name}")
    return found


def _stage_plan(config: Config, shape: Shape, memory: StageMemory, card: Card) -> StagePlan:
    stage = memory.stage
    how = choose(config, shape, stage, card.bytes, on_gpu(config)).how
    micro = None if stage == "compare" else largest_micro_batch(config, shape, stage, card.bytes, how)
    rollout = largest_rollout_batch(config, shape, stage, card.bytes, how) if memory.sizes.rollout else None
    return StagePlan(memory, memory.peak <= card.bytes, micro, rollout)


def _instead(config: Config, card: Card) -> list[str]:
    """Models of the table that fit: the largest with the settings as they are, and the largest with the leanest."""
    shapes = {name: shape_of(fields, name) for name, fields in MODELS.items() if name != "demo"}
    ordered = sorted(shapes, key=lambda name: -shapes[name].parameters)
    twins: dict[int, str] = {}
    for name in ordered:
        twins.setdefault(shapes[name].parameters, name)

    def first(needs: Any) -> str | None:
        fitting = (name for name in twins.values() if not stages_over(needs(shapes[name]), card.bytes))
        return next(fitting, None)

    as_is = first(lambda shape: memories(config, shape, card.bytes))
    lean = first(lambda shape: leanest(config, shape))
    found = [f"{as_is} with the settings as they are"] if as_is else []
    return found + ([f"{lean} with the leanest settings"] if lean and lean != as_is else [])
