"""The comparison's numbers, curves and table for the trackers that `report_to` names, beside the stages' own logs."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit.compare.report.table import rows
from kit.config import Config

Metrics = Mapping[str, Any]
_PROJECT = {"wandb": "WANDB_PROJECT", "trackio": "TRACKIO_PROJECT"}  # as transformers reads them
_DEFAULT_PROJECT = "huggingface"


def track(config: Config, metrics: Metrics, out: Path) -> None:
    """Send the comparison to every tracker of `report_to`: final numbers, reward and KL along training, the table.

    tensorboard writes into `out/tensorboard`; wandb and trackio open one run, `<name>-compare`.
    """
    names = [config.report_to] if isinstance(config.report_to, str) else config.report_to
    for name in names:
        if name == "tensorboard":
            _tensorboard(metrics, out / "tensorboard")
        elif name in _PROJECT:
            _run(name, config, metrics)


def final_numbers(metrics: Metrics) -> dict[str, float]:
    """Every number of arms and pairs under a path such as `compare/ppo/true_reward/mean`; the unknown is left out."""
    return dict(_numbers({**metrics["arms"], **metrics["pairs"]}, "compare"))


def curve_points(metrics: Metrics) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(arm, its number on the curve, its numbers): judge's score, proxy, length and KL of each checkpoint."""
    for arm, points in metrics.get("curves", {}).items():
        for at, point in enumerate(points):
            means = {name: value["mean"] for name, value in point.items() if isinstance(value, Mapping)}
            yield arm, at, {f"compare/{arm}/curve/{name}": mean for name, mean in means.items()}


def _run(tracker: str, config: Config, metrics: Metrics) -> None:
    """wandb and trackio have the same calls."""
    module: Any
    if tracker == "wandb":
        import wandb as module  # type: ignore[no-redef]
    else:
        import trackio as module  # type: ignore[no-redef]
    # The stages leave wandb's run open; what is logged there at a lower step than its last is dropped.
    apart = {"reinit": "finish_previous"} if tracker == "wandb" else {}
    module.init(
        project=os.environ.get(_PROJECT[tracker], _DEFAULT_PROJECT), name=f"{config.name}-compare",
        config=config.model_dump(mode="json"), **apart,
    )  # fmt: skip
    try:
        steps: dict[int, dict[str, float]] = {}
        for _, at, numbers in curve_points(metrics):
            steps.setdefault(at, {}).update(numbers)
        for at, numbers in sorted(steps.items()):
            module.log(numbers, step=at)
        head, *body = rows(metrics)
        last = max(steps, default=-1) + 1
        module.log({**final_numbers(metrics), "compare/arms": module.Table(columns=head, data=body)}, step=last)
    finally:
        module.finish()


def _tensorboard(metrics: Metrics, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    head, *body = rows(metrics)
    with SummaryWriter(str(folder)) as writer:
        for name, value in final_numbers(metrics).items():
            writer.add_scalar(name, value)
        for _, at, numbers in curve_points(metrics):
            for name, value in numbers.items():
                writer.add_scalar(name, value, global_step=at)
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
        writer.add_text("compare/arms", "\n".join(lines))


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}/{key}")
    elif isinstance(value, list):
        names = ("low", "high") if path.endswith("/ci95") else range(len(value))
        for name, inner in zip(names, value, strict=True):
            yield from _numbers(inner, f"{path}/{name}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
