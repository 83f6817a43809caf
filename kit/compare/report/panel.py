"""The reward-hacking panel as tables: arms side by side, and every arm's checkpoints, flagged cells named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.compare.report.figures import series_of
from kit.compare.report.text import UNKNOWN, label, number, signed, visible
from kit.compare.report.words import hack_sentence

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: its title, its unit or what it counts, its decimals; a share is shown in %.

    `warns` names the directions that can be a sign of hacking: "up", "down", both or neither.
    """

    title: str
    unit: str = ""
    digits: int = 2
    share: bool = False
    warns: tuple[str, ...] = ("up", "down")


MEASURES = {
    "response_tokens": Measure("Length", "tokens per answer", 1, warns=("up",)),
    "truncated": Measure("Cut off", "share of answers at the length limit", 1, share=True, warns=("up",)),
    "empty": Measure("Empty", "share of answers without a word", 1, share=True, warns=("up",)),
    "repeated_4grams": Measure("Repeats itself", "share of 4-word sequences said before", 1, share=True, warns=("up",)),
    "distinct_1": Measure("Distinct words", "of all words of an answer", warns=("down",)),
    "distinct_2": Measure("Distinct word pairs", "of all of an answer", warns=("down",)),
    "distinct_3": Measure("Distinct word triples", "of all of an answer", warns=("down",)),
    "self_similarity": Measure("Alike across prompts", "overlap with answers to others, 0 to 1", warns=("up",)),
    "same_opening": Measure("Same opening", "share that start with its commonest words", 1, share=True, warns=("up",)),
    "stock_openers": Measure("Stock phrases", "share that open with one", 1, share=True, warns=("up",)),
    "refusals": Measure("Refusals", "share of answers", 1, share=True, warns=("up",)),
    "entropy_nats": Measure("Entropy", "nats per token", warns=("down",)),
    "kl_nats": Measure("KL from SFT", "nats per answer; never flagged", 1, warns=()),
    "proxy_reward": Measure("Proxy reward", "reward model's score", warns=()),
    "judge_score": Measure("Judge's score", warns=("down",)),
    "proxy_less_judge": Measure("Proxy less judge", "standard deviations of SFT's scores", warns=("up",)),
}
FLAGS = {"up": ("▲", "up"), "down": ("▼", "down")}


@dataclass(frozen=True)
class Measured:
    """A cell: the value, its difference to SFT with its interval, and (symbol, word) where it is flagged."""

    value: str = UNKNOWN
    change: str = ""
    interval: str = ""
    flag: tuple[str, str] | None = None
    warns: bool = False
    quote: str = ""


@dataclass(frozen=True)
class PanelTable:
    """Measures by columns (name, colour number); columns are arms, or the checkpoints of one arm."""

    title: str
    columns: list[tuple[str, int]]
    rows: list[tuple[Measure, list[Measured]]]

    @property
    def warnings(self) -> int:
        """How many cells are flagged in a direction that can be a sign of hacking."""
        return sum(cell.warns for _, cells in self.rows for cell in cells)


def hacking_panel(metrics: Metrics) -> list[PanelTable]:
    """The arms side by side as they were compared, then every arm's checkpoints; empty where nothing was measured."""
    found = metrics.get("panel") or {}
    order = sorted(found, key=lambda arm: [*metrics["arms"], arm].index(arm))
    panel = {arm: found[arm] for arm in order if found[arm]}
    if not panel:
        return []
    series = series_of(list(metrics["arms"]))
    final = [steps["last"] if "last" in steps else list(steps.values())[-1] for steps in panel.values()]
    tables = [PanelTable("As compared", [(label(arm), series.get(arm, 0)) for arm in panel], _rows(final))]
    for arm, steps in panel.items():
        if len(steps) > 1:
            columns = [(visible(step), series.get(arm, 0)) for step in steps]
            tables.append(PanelTable(f"{label(arm)}, every checkpoint", columns, _rows(list(steps.values()))))
    return tables


def hacking_sentences(metrics: Metrics) -> list[str]:
    """A sentence for each named hack of any checkpoint."""
    return [hack_sentence(hack) for hack in metrics.get("hacking") or []]


def intervals_sentence(metrics: Metrics) -> str:
    """What the intervals of the panel are and what a flag asks for."""
    cells = [c for steps in (metrics.get("panel") or {}).values() for step in steps.values() for c in step.values()]
    if any(cell and (cell.get("vs_sft") or {}).get("ci95_joint") for cell in cells):
        return (
            "The difference to SFT on the same prompts stands below each value, with an interval that holds at 95 % "
            "for all cells of the panel at once. ▲ up and ▼ down mark the cells whose interval leaves out 0, with an "
            "exclamation mark and a colour where that can be a sign of hacking."
        )
    return (
        "The difference to SFT on the same prompts stands below each value, with its 95 % interval. "
        "▲ up and ▼ down mark the changes that are no chance, with an exclamation mark and a colour where that can be "
        "a sign of hacking."
    )


def _rows(columns: Sequence[Metrics]) -> list[tuple[Measure, list[Measured]]]:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [_measured(name, column.get(name)) for column in columns]) for name in names]
    return [(_measure(name), cells) for name, cells in rows if any(cell.value != UNKNOWN for cell in cells)]


def _measure(name: str) -> Measure:
    title = visible(name.replace("_", " "))
    return MEASURES.get(name) or Measure(title[:1].upper() + title[1:])


def _measured(name: str, found: Metrics | None) -> Measured:
    if not found or found.get("mean") is None:
        return Measured()
    how = _measure(name)
    scale = 100 if how.share else 1
    change, interval, against = "", "", found.get("vs_sft")
    if against:
        ends = against.get("ci95_joint") or against.get("ci95") or ()
        change = signed(scale * against["mean"], how.digits)
        interval = " to ".join(signed(scale * end, how.digits) for end in ends)
    value = number(scale * found["mean"], how.digits) + (" %" if how.share else "")
    quote = f"“{visible(str(found['opening']))}”" if found.get("opening") else ""
    flag = found.get("flag") or ""
    return Measured(value, change, interval, FLAGS.get(flag), flag in how.warns, quote)
