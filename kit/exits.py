"""How a command ends: what went wrong as one line, and the exit code."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from kit.errors import KitError, printable


@contextmanager
def exit_codes(again: str | None = None) -> Iterator[None]:
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


def echo(text: str) -> None:
    """Print a text, with what would move the terminal's cursor as escapes."""
    typer.echo(printable(text))
