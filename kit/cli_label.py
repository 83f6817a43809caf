"""`kit label`: the page to rank on, and what goes in and out of a labelling project."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kit.errors import ConfigError
from kit.exits import echo, exit_codes

_HELPING = "kit.cli_label.helping"


class _ServesByDefault(TyperGroup):
    """A group whose command `serve` is meant where none is named: kit label labels/hh. Its help has those options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        return self.commands["serve"].get_params(ctx) if _HELPING in ctx.meta else super().get_params(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["PROJECT [OPTIONS]", "|", "COMMAND [ARGS]..."]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta[_HELPING] = True
        super().format_help(ctx, formatter)


class Form(StrEnum):
    """Whose form a file is in."""

    kit = "kit"
    argilla = "argilla"
    label_studio = "label-studio"


label = typer.Typer(
    cls=_ServesByDefault,
    no_args_is_help=True,
    help="Rank answers in a browser, alone or as a team: serves a project's page and prints secret links.\n\n"
    "`kit label labels/hh` is for you alone, `kit label labels/hh --annotators ana,ben` for a team, and "
    "`kit label --ab runs/quickstart` asks which of two arms answers better, without names. Ctrl-C ends it.",
)

ProjectFolder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A labelling project, e.g. labels/hh.")]


@label.command()
def serve(
    project: Annotated[
        Path | None, typer.Argument(metavar="PROJECT", help="A labelling project, e.g. labels/hh.")
    ] = None,
    annotators: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Who is let in, each by a link of their own: ana,ben or, with groups, ana:north,ben:south. "
            "Default: all who were before, else one person called me.",
        ),
    ] = None,
    ab: Annotated[
        Path | None,
        typer.Option("--ab", metavar="RUN_DIR", help="Compare the arms of a run, blind; makes labels/RUN-ab first."),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST", help="Where to listen; 0.0.0.0 lets other machines in, and needs --annotators."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 8765, or the next one that is free.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address people come by, where a proxy stands before it.")
    ] = None,
    new_links: Annotated[bool, typer.Option("--new-links", help="Make every link that there was invalid.")] = False,
) -> None:
    """Serve the page to rank on, and print the link of each person. Meant where no command is named."""
    with exit_codes():
        from kit.labelling.terminal import serve as serve_project
        from kit.labels.links import named
        from kit.labels.project import open_project

        people = None if annotators is None else named(annotators)
        if ab is not None:
            from kit.runs.folder import open_run

            open_run(ab)  # a mistyped path is told at once: what comes next takes seconds to import
            from kit.sampling.ab import ab_project

            opened = ab_project(ab, project)
        elif project is not None:
            opened = open_project(project)
        else:
            raise ConfigError("kit label: name a project, e.g. kit label labels/hh, or --ab and the folder of a run")
        serve_project(opened, people, listen, port, url, new_links)


@label.command("export")
def export_(
    project: ProjectFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to, e.g. judgements.jsonl.")],
    form: Annotated[Form, typer.Option(help="Whose form.")] = Form.kit,
    everything: Annotated[bool, typer.Option("--all", help="What was corrected later, too.")] = False,
) -> None:
    """Write the judgements to a file: for `kit agreement`, for training, or for Argilla and Label Studio."""
    with exit_codes():
        from kit.labelling.exchange import export_file
        from kit.labels.project import open_project

        rows = export_file(open_project(project), file, form.value, everything)
        echo(f"{file}: {rows:,} judgement{'' if rows == 1 else 's'}")


@label.command("import")
def import_(
    project: ProjectFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export of the kit, Argilla or Label Studio.")],
) -> None:
    """Take judgements from a file into a project; those that are there already are left as they are."""
    with exit_codes():
        from kit.labelling.exchange import import_file
        from kit.labels.project import open_project

        found = import_file(open_project(project), file)
        again = f", {found.again:,} were there already" if found.again else ""
        echo(f"{project}: {found.judgements:,} judgements of {len(found.annotators)} people came in{again}")
        for note in found.notes:
            echo(f"  {note}")


@label.command()
def backup(
    project: ProjectFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to, e.g. hh.zip; replaced as a whole.")],
) -> None:
    """Write the whole project to one .zip, also while it is being served; unzip it into labels/ to have it back."""
    with exit_codes():
        from kit.labels.backup import back_up
        from kit.labels.project import open_project

        count = back_up(open_project(project), file)
        echo(f"{file}: the project and {count:,} judgement{'' if count == 1 else 's'}; without the secret of its links")
