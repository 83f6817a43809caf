"""The command line: kit run | check | compare. Heavy imports happen inside the commands: --help answers at once.

Exit codes: 0 done, 2 the input is wrong, 3 a guard stopped the training, 130 interrupted, 1 our bug (with a traceback).
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kit.errors import KitError

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
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train the stages that are not done yet, compare the arms, and print which one won."""
    with _exit_codes(again=shlex.join(["kit", "run", config, *(overrides or [])])):
        from kit.pipeline import run_pipeline

        finished = run_pipeline(config, overrides or [])
        if finished.comparison is not None:
            from kit.compare.table import print_comparison

            print_comparison(finished.comparison.metrics)
            typer.echo(f"\nReport: {finished.comparison.report}")
        else:
            typer.echo(f"\nAdapters: {', '.join(str(s.adapter) for s in finished.stages.values())}")


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check the configuration, the data and the tokenizer, before any weights load. Writes nothing into the run."""
    with _exit_codes():
        from kit.preflight import check_run

        for line in check_run(config, overrides or []):
            typer.echo(line)


@app.command()
def compare(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")],
    overrides: Overrides = None,
) -> None:
    """Compare the arms of a finished run, again if the compare settings changed; trains nothing."""
    with _exit_codes():
        from kit.compare.table import print_comparison
        from kit.pipeline import compare_run

        comparison = compare_run(run_dir, overrides or [])
        print_comparison(comparison.metrics)
        typer.echo(f"\nReport: {comparison.report}")


@contextmanager
def _exit_codes(again: str | None = None) -> Iterator[None]:
    """KitError and Ctrl-C as one line and an exit code; anything else is our bug and keeps its traceback."""
    try:
        yield
    except KitError as error:
        typer.echo(f"kit: error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        hint = f"; finished stages are kept. Go on with: {again}" if again else ""
        typer.echo(f"\nkit: interrupted{hint}", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """Entry point of the `kit` command."""
    app(prog_name="kit")


if __name__ == "__main__":
    main()
