"""Numbers, names and other people's text as the report writes them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Estimate = Mapping[str, Any]  # {"mean": number, "ci95": [low, high]}; the interval may be missing

UNKNOWN = "-"
# Control characters but tab and newline, direction marks and overrides, invisible characters, tags, lone surrogates.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LABELS = {
    "sft": "SFT",
    "dpo": "DPO",
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "reward": "Reward model",
    "judge": "Judge's reward model",
}


def visible(text: str) -> str:
    """The text with every hidden character written out, such as U+202E; tab and newline stay."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))


def label(arm: str) -> str:
    """An arm's or stage's name as people write it: sft -> SFT, best_of_n -> best of n."""
    return _LABELS.get(arm, visible(arm.replace("_", " ")))


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage without its sign: 0.634 -> "63"."""
    return number(100 * share, digits)


def interval_text(ci95: Sequence[float]) -> str:
    """ "95 % interval 56-70 %"; with as many digits as it takes to see on which side of 50 % an end lies."""
    digits = next((d for d in (0, 1, 2) if all(end == 0.5 or float(percent(end, d)) != 50 for end in ci95)), 3)
    return f"95 % interval {percent(ci95[0], digits)}-{percent(ci95[1], digits)} %"


def estimate(value: Estimate | None, digits: int = 2) -> str:
    """ "1.83 ±0.10" (half the interval's width); "-" where unknown."""
    if value is None:
        return UNKNOWN
    spread = f" ±{(value['ci95'][1] - value['ci95'][0]) / 2:.{digits}f}" if value.get("ci95") else ""
    return number(value["mean"], digits) + spread


def with_interval(value: Estimate | None, digits: int = 2, share: bool = False) -> tuple[str, str]:
    """The mean and its interval as two texts: ("1.83", "1.73 to 1.93"), of a share ("78 %", "72 to 84"); ("-", "")."""
    if value is None:
        return UNKNOWN, ""
    scale = 100 if share else 1
    ends = " to ".join(number(scale * end, digits) for end in value.get("ci95") or ())
    return number(scale * value["mean"], digits) + (" %" if share else ""), ends


def number(value: float, digits: int = 2) -> str:
    """A number that never reads "-0.00"."""
    return f"{value:.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, a true minus sign: +0.21, −0.21, 0.00."""
    sign = "" if not round(value, digits) else "+" if value > 0 else "−"
    return sign + number(abs(value), digits)


def win_text(value: Estimate | None) -> str:
    """ "78 % ±6"; "-" where unknown."""
    if value is None:
        return UNKNOWN
    return f"{percent(value['mean'])} % ±{percent((value['ci95'][1] - value['ci95'][0]) / 2)}"


def count(value: float | None) -> str:
    """A count with separators, 1,234,567; "-" where unknown."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit people would use: 16 s, 4.2 min, 1.5 h."""
    if seconds is None:
        return UNKNOWN
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5_940 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes in binary units: 412 MiB, 3.1 GiB."""
    if count is None:
        return UNKNOWN
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
