"""The command line: kit run | check | plan | compare | agreement. Heavy imports happen inside the commands.

Exit codes: 0 done, 2 the input is wrong, 3 a guard stopped the training, 130 interrupted (143 by SIGTERM), 1 our bug
(with a traceback).
"""

import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated

import typer

from kit.errors import ConfigError, KitError, printable

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
    with _exit_codes(again=shlex.join(["kit", "run", config, *(overrides or [])])):
        from kit.pipeline import run_pipeline

        finished = run_pipeline(config, overrides or [], restart=restart or [])
        if finished.comparison is not None:
            from kit.compare.report.table import print_comparison

            print_comparison(finished.comparison.metrics)
            _echo(f"\nReport: {finished.comparison.report}")
        else:
            _echo(f"\nAdapters: {', '.join(str(s.adapter) for s in finished.stages.values())}")


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
    with _exit_codes():
        if html is not None and (html.is_dir() or not html.parent.is_dir()):
            raise ConfigError(f"--html {html}: name a file in a folder that exists, e.g. report.html")
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            from kit.preflight import check as check_config

            found = check_config(config, overrides or [])
        if html is not None:
            from kit.runs.files import write_text

            write_text(html, found.html())
        if as_json:
            import json

            typer.echo(json.dumps(found.as_dict(), indent=1))
        else:
            from kit.findings.terminal import print_findings

            print_findings(found)
            if html is not None:
                _echo(f"\nReport: {html}")
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
    with _exit_codes():
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
        typer.Option(help="truth, held_out, llm, a file of votes (.jsonl, .csv), or a function as file.py:name."),
    ] = None,
) -> None:
    """Compare the arms of a finished run, again where the judge or another setting changed; trains nothing.

    With several runs: their arms side by side, and those that answered the same prompts against each other.
    """
    with _exit_codes():
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
        _echo(f"\nReport: {comparison.report}")


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
    with _exit_codes():
        if html is not None and (html.is_dir() or not html.parent.is_dir()):
            raise ConfigError(f"--html {html}: name a file in a folder that exists, e.g. agreement.html")
        from kit.feedback.agreement import agreement as agreement_in

        found = agreement_in(file, objective)
        if html is not None:
            from kit.runs.files import write_text

            write_text(html, found.html())
        if as_json:
            import json

            typer.echo(json.dumps(found.as_dict(), indent=1))
        else:
            from kit.feedback.terminal import print_agreement

            print_agreement(found)
            if html is not None:
                typer.echo(f"\nReport: {html}")


@contextmanager
def _exit_codes(again: str | None = None) -> Iterator[None]:
    """KitError and Ctrl-C as one line and an exit code; anything else is our bug and keeps its traceback."""
    try:
        yield
    except KitError as error:
        typer.echo(f"kit: error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as interrupted:
        hint = f"; what was done is kept. Go on with: {again}" if again else ""
        with suppress(OSError):  # a terminal that was closed
            typer.echo(printable(f"\nkit: interrupted{hint}"), err=True)
        raise typer.Exit(getattr(interrupted, "exit_code", 130)) from None


def main() -> None:
    """Entry point of the `kit` command. The traceback of our own bug shows no secret and no control characters."""
    try:
        app(prog_name="kit")
    except Exception:
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)


def _echo(text: str) -> None:
    typer.echo(printable(text))


if __name__ == "__main__":
    main()
