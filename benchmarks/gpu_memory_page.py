"""The tables of benchmarks/gpu_memory.py, predicted beside measured, and the page they stand on, docs/benchmarks.md.

What was found in a run: {name of a case: {"case": its fields, "device": …, "stages": {stage: what the worker told}}}.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_memory_cases import LEAN_IN_WORDS, OUT_OF_MEMORY, PPO_OVER_SFT, PREDICTION, STAGES, Case, predicted

from kit.models.plan.card import GIB

NOT_MEASURED = "not measured on a GPU"
Found = Mapping[str, Mapping[str, Any]]
STAGE_COLUMNS = (
    "model", "stage", "rows", "tensors, predicted", "card, predicted", "tensors, measured", "card, measured",
    "error of tensors", "error of card", "seconds",
)  # fmt: skip
GOAL_COLUMNS = ("goal", "wanted", "predicted", "measured", "verdict")

_INTRO = """# GPU memory, predicted and measured

{about}

    python benchmarks/gpu_memory.py                    # measures on the GPU here, and writes this page anew
    python benchmarks/gpu_memory.py --predict-only     # without a GPU

Models of real shapes with random weights, quantised to 4 bits on the device; 512 + 512 tokens a row, but where another
number stands beside the model; gradient checkpointing, LoRA of rank 16 and AdamW in 32 bits, but for "lean":
{lean}. All in GiB, 2³⁰ bytes. *Tensors* are what torch gives out at the peak. *Card* is what the
process holds of the card then: predicted with the plan's estimates of CUDA's context and the allocator's slack,
measured as what torch reserved and what lies outside of that. *Rows* are those of a training pass (pairs for reward
and dpo) + responses sampled at once. No stage is given more memory than a card for its model has:
{cards}.
"""


@dataclass(frozen=True)
class Row:
    """A stage of a case; bytes. `error` says why nothing was measured, `note` what stopped the stage after its peak."""

    case: Case
    stage: str
    rows: str
    tensors_predicted: int
    card_predicted: int
    tensors_measured: int | None = None
    card_measured: int | None = None
    seconds: float | None = None
    error: str | None = None
    note: str | None = None

    @property
    def cells(self) -> list[str]:
        """As in the page."""
        measured = [gib(self.tensors_measured), gib(self.card_measured)]
        if self.error or self.tensors_measured is None:
            measured = [self.error or NOT_MEASURED, "-"]
        off = [
            error_of(self.tensors_predicted, self.tensors_measured), error_of(self.card_predicted, self.card_measured)
        ]  # fmt: skip
        seconds = "-" if self.seconds is None else f"{self.seconds:.0f}"
        shortened = (
            "" if full_length(self.case) else f", {self.case.prompt_tokens} + {self.case.response_tokens} tokens"
        )
        return [
            self.case.name + shortened, self.stage, self.rows, gib(self.tensors_predicted), gib(self.card_predicted),
            *measured, *("-" if error is None else f"{error:+.0%}" for error in off), seconds,
        ]  # fmt: skip


def gib(size: float | None) -> str:
    """Bytes as GiB."""
    return "-" if size is None else f"{size / GIB:.2f}"


def error_of(predicted_bytes: float, measured_bytes: float | None) -> float | None:
    """How much too large the prediction is, as a share of what was measured."""
    return None if not measured_bytes else predicted_bytes / measured_bytes - 1


def full_length(case: Case) -> bool:
    """Whether the rows are those of the goals."""
    return (case.prompt_tokens, case.response_tokens) == (512, 512)


def rows(cases: Iterable[Case], found: Found, stages: Sequence[str] = STAGES) -> list[Row]:
    """A row for each stage of each case; a case that was measured at other sizes is shown at those."""
    made = []
    contexts = [told.get("outside_bytes") for one in found.values() for told in one["stages"].values()]
    context = max((size for size in contexts if size is not None), default=None)
    for case in cases:
        here = found.get(case.name)
        case = Case(**here["case"]) if here else case
        for stage, memory in predicted(case, stages).items():
            told = here["stages"].get(stage, {}) if here else {}
            sizes = memory.sizes
            at_once = " + ".join(str(size) for size in (sizes.micro, sizes.rollout) if size)
            row = Row(case, stage, at_once, memory.allocated, memory.peak)
            if told.get("error"):
                far = f" beyond {gib(told['tensor_bytes'])}" if told["error"] == OUT_OF_MEMORY else ""
                row = Row(**vars(row) | {"error": told["error"] + far, "seconds": told.get("seconds")})
            elif told:
                # A process that shares the device cannot tell its own context: it is that of one that was alone.
                outside, reserved = told["outside_bytes"] or context, told["reserved_bytes"]
                card = None if outside is None or reserved is None else reserved + outside
                measured = {"tensors_measured": told["tensor_bytes"], "card_measured": card}
                row = Row(**vars(row) | measured | {"seconds": told["seconds"], "note": told.get("note")})
            made.append(row)
    return made


@dataclass(frozen=True)
class Goal:
    """What is wanted of a case, in the unit of its texts; `met` is None where it was not measured."""

    text: str
    wanted: str
    predicted: str
    measured: str
    met: bool | None

    @property
    def cells(self) -> list[str]:
        """As in the page."""
        verdict = "" if self.met is None else "reached" if self.met else "missed"
        return [self.text, self.wanted, self.predicted, self.measured, verdict]


def goals(table: Sequence[Row]) -> list[Goal]:
    """PPO's card of each model, PPO's peak beside SFT's, and how far the plan is off at the worst; none of a toy."""
    table = [row for row in table if not row.case.on_cpu]
    if not table:
        return []
    by = {(row.case.name, row.stage): row for row in table if full_length(row.case)}
    made = []
    for (name, stage), row in by.items():
        if stage == "ppo" and row.case.goal_gib is not None:
            size, failed = row.card_measured, (row.error or "").startswith(OUT_OF_MEMORY)
            met = False if failed else None if size is None else size <= row.case.goal_gib * GIB
            measured = row.error or (NOT_MEASURED if size is None else gib(size))
            text = f"{name}: PPO, {row.rows} rows, GiB of the card"
            made.append(Goal(text, f"<= {row.case.goal_gib:g}", gib(row.card_predicted), measured, met))
    for (name, stage), ppo in by.items():
        sft = by.get((name, "sft"))
        if stage == "ppo" and sft is not None:
            ratio = None
            if ppo.card_measured and sft.card_measured:
                ratio = ppo.card_measured / sft.card_measured
            measured = NOT_MEASURED if ratio is None else f"{ratio:.2f}"
            planned = f"{ppo.card_predicted / sft.card_predicted:.2f}"
            met = None if ratio is None else ratio <= PPO_OVER_SFT
            made.append(Goal(f"{name}: PPO's card / SFT's", f"<= {PPO_OVER_SFT}", planned, measured, met))
    for what in ("tensors", "card"):
        errors = [error_of(getattr(row, f"{what}_predicted"), getattr(row, f"{what}_measured")) for row in table]
        worst = max((error for error in errors if error is not None), key=abs, default=None)
        measured = NOT_MEASURED if worst is None else f"{worst:+.0%}"
        met = None if worst is None else abs(worst) <= PREDICTION
        made.append(Goal(f"the plan's error, {what}, at the worst", f"within {PREDICTION:.0%}", "-", measured, met))
    return made


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table that can be read as it stands."""
    whole = [list(columns), *map(list, lines)]
    widths = [max(len(line[at]) for line in whole) for at in range(len(columns))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in whole
    ]
    return "\n".join([padded[0], "| " + " | ".join("-" * width for width in widths) + " |", *padded[1:]])


def tables(table: Sequence[Row]) -> list[str]:
    """The stages, what stopped some of them, and the goals."""
    notes = [f"- {row.case.name} {row.stage}, after its peak: {row.note}" for row in table if row.note]
    wanted = [goal.cells for goal in goals(table)]
    found = [markdown(STAGE_COLUMNS, (row.cells for row in table)), "\n".join(notes)]
    return [part for part in (*found, markdown(GOAL_COLUMNS, wanted) if wanted else "") if part]


def page(cases: Sequence[Case], found: Found, about: Mapping[str, Any] | None) -> str:
    """docs/benchmarks.md."""
    table = rows(cases, found)
    cards = ", ".join(f"{case.name} {case.card_gib:g}" for case in cases)
    text = _INTRO.format(about=_about(about), lean=LEAN_IN_WORDS, cards=cards)
    return "\n".join([text, *(f"{part}\n" for part in tables(table))])


def _about(about: Mapping[str, Any] | None) -> str:
    if about is None:
        return (
            "**Nothing on this page has been measured on a GPU yet: every number is predicted, by adding up bytes.**\n"
            "What was measured on a CPU stands in docs/memory.md."
        )
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured on {about['date'][:10]} on {about['device']}, commit {about['commit']}, by `{about['command']}`:\n"
        f"{versions}. Rows that say so have not been measured; what the plan predicts is today's."
    )
