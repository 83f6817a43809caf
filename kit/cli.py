"""The command line: kit run | check | plan | compare | sample | label | agreement. Commands import what is heavy.

Exit codes: 0 done, 2 the input is wrong, 3 a guard stopped the training, 130 interrupted (143 by SIGTERM), 1 our bug
(with a traceback).
"""

import shlex
import sys
import traceback
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from kit.cli_label import label
from kit.errors import ConfigError, MachineError, printable
from kit.exits import echo, exit_codes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RLHF on one consumer GPU: SFT, reward model, PPO and DPO from one config, and which of the two won.",
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, e.g. configs/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. ppo.kl_coef=0.1")
]


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    restart: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Drop what is kept of an unfinished stage, and begin it again."),
    ] = None,
) -> None:
    """Train the stages that are not done yet, compare the arms, and print which one won."""
    with exit_codes(again=shlex.join(["kit", "run", config, *(overrides or [])])):
        from kit.pipeline import run_pipeline

        finished = run_pipeline(config, overrides or [], restart=restart or [])
        if finished.comparison is not None:
            from kit.compare.report.table import print_comparison

            print_comparison(finished.comparison.metrics)
            echo(f"\nReport: {finished.comparison.report}")
        else:
            echo(f"\nAdapters: {', '.join(str(s.adapter) for s in finished.stages.values())}")


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything found, as JSON; docs/data.md has the keys.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as one self-contained page, too.")
    ] = None,
) -> None:
    """Check configuration, data and tokenizer before any weights load: what is kept, dropped, cut and learnt.

    Writes nothing but the page. Exit code 2 where something would stop a run.
    """
    with exit_codes():
        if html is not None and (html.is_dir() or not html.parent.is_dir()):
            raise ConfigError(f"--html {html}: name a file in a folder that exists, e.g. report.html")
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            from kit.preflight import check as check_config

            found = check_config(config, overrides or [])
        if html is not None:
            _write_page(html, found.html())
        if as_json:
            import json

            typer.echo(json.dumps(found.as_dict(), indent=1))
        else:
            from kit.findings.terminal import print_findings

            print_findings(found)
            if html is not None:
                echo(f"\nReport: {html}")
        if not found.ok:
            raise typer.Exit(2)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(help="Plan for a card of this size. Default: the GPU here, else 8, 12, 16 and 24.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every item of every stage, in bytes.")] = False,
) -> None:
    """Predict each stage's GPU memory before anything is downloaded, and say what to change where it does not fit.

    Exit code 2 where the config, as it is, does not fit.
    """
    with exit_codes():
        from kit.models.plan.planner import plan as plan_config

        planned = plan_config(config, overrides or [], gpu_memory_gib=gpu_memory_gib)
        if as_json:
            import json

            typer.echo(json.dumps(planned.as_dict(), indent=1))
        else:
            from kit.models.plan.show import print_plan

            print_plan(planned)
        if not planned.fits:
            raise typer.Exit(2)


@app.command()
def compare(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR [RUN_DIR]... [KEY=VALUE]...")],
    judge: Annotated[
        str | None,
        typer.Option(
            help="truth, held_out, llm, human (see kit label), a file of votes (.jsonl, .csv), or file.py:name."
        ),
    ] = None,
) -> None:
    """Compare the arms of a finished run, again where the judge or another setting changed; trains nothing.

    With several runs: their arms side by side, and those that answered the same prompts against each other.
    """
    with exit_codes():
        folders = [Path(text) for text in run_dirs if "=" not in text]
        overrides = [text for text in run_dirs if "=" in text]
        overrides += [] if judge is None else [f"compare.judge={judge}"]
        if len(folders) > 1:
            from kit.compare.side_by_side import compare_runs, print_runs

            if overrides:
                raise ConfigError(
                    f"override `{overrides[0]}`: several runs are compared as they are; set it for one run at a time, "
                    f"e.g. kit compare {folders[0]} {overrides[0]}"
                )
            print_runs(compare_runs(folders))
            return
        if not folders:
            raise ConfigError("kit compare: name the folder of a finished run, e.g. kit compare runs/quickstart")
        from kit.compare.report.table import print_comparison
        from kit.pipeline import compare_run

        comparison = compare_run(folders[0], overrides)
        print_comparison(comparison.metrics)
        echo(f"\nReport: {comparison.report}")


@app.command()
def sample(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run, e.g. runs/quickstart.")],
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompts to answer, in any form data.prompts takes. Default: the run's training prompts."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Answers a prompt: 4 to 9 to rank, 2 to choose from.")] = 4,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Who answers: a stage of the run, `base`, or an adapter folder. Repeat for a mix."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The project's name. Default: the run's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of projects.")] = Path("labels"),
    temperature: Annotated[float, typer.Option(help="Of decoding; 1 is the policy as it was trained.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer. Default: the run's own limit.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the run's.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts. Default: all of a file, 50 of the run's own.")
    ] = None,
    per_item: Annotated[int, typer.Option(help="People who judge each item.")] = 1,
    overlap: Annotated[float, typer.Option(help="Share of items that two judge where --per-item is 1.")] = 0.2,
    repeats: Annotated[float, typer.Option(help="Share of items that come twice, for self-consistency.")] = 0.08,
    gold: Annotated[
        str | None, typer.Option(help="Rankings that are right, mixed in: rows of prompt, answers, ranks.")
    ] = None,
    guidelines: Annotated[Path | None, typer.Option(help="A Markdown file. Default: the kit's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Answers drawn at once. Default: compare.batch_size.")] = None,
) -> None:
    """Draw K answers a prompt from a finished run, near-duplicates left out, and make a project to rank them in."""
    with exit_codes():
        from kit.sampling.sample import sample as sample_run

        project = sample_run(
            run_dir, prompts, k, adapters=adapter or ["sft"], name=name, out=out, temperature=temperature,
            max_tokens=max_tokens, seed=seed, limit=limit, per_item=per_item, overlap=overlap, repeats=repeats,
            gold=gold, guidelines=guidelines, batch_size=batch_size,
        )  # fmt: skip
        echo(f"\nNext: kit label {project.path}")


app.add_typer(label, name="label")


@app.command()
def agreement(
    file: Annotated[str, typer.Argument(metavar="PROJECT", help="A labelling project, or a file of several people.")],
    objective: Annotated[
        str | None, typer.Option(help="Which of several things that were rated, e.g. grammar. Default: overall.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON; docs/feedback.md has the keys.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Write it as one self-contained page with plots, too.")
    ] = None,
) -> None:
    """Say how far people agree, each of them by name, and what to do: alpha, reliability, biases, drift, hard items."""
    with exit_codes():
        if html is not None and (html.is_dir() or not html.parent.is_dir()):
            raise ConfigError(f"--html {html}: name a file in a folder that exists, e.g. agreement.html")
        from kit.feedback.agreement import agreement as agreement_in

        found = agreement_in(file, objective)
        if html is not None:
            _write_page(html, found.html())
        if as_json:
            import json

            typer.echo(json.dumps(found.as_dict(), indent=1))
        else:
            from kit.feedback.terminal import print_agreement

            print_agreement(found)
            if html is not None:
                typer.echo(f"\nReport: {html}")


def _write_page(file: Path, text: str) -> None:
    from kit.runs.files import write_text

    try:
        write_text(file, text)
    except OSError as error:
        raise MachineError(f"--html {file}: cannot be written: {error.strerror or error}") from None


def main() -> None:
    """Entry point of the `kit` command. The traceback of our own bug shows no secret and no control characters."""
    try:
        app(prog_name="kit")
    except Exception:
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)


if __name__ == "__main__":
    main()
