"""The order of the rooms, proved from the imports: a line of `LAYERS` may import only lines below it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit

ROOT = Path(__file__).resolve().parents[1]

# Top to bottom. A room may also import itself.
LAYERS = [
    "kit.cli",
    "kit.cli_label",
    "kit.exits",
    "kit.pipeline",
    "kit.sampling",
    "kit.preflight",
    "kit.labelling",
    "kit.findings",
    "kit.feedback",
    "kit.compare",
    "kit.stages",
    "kit.ppo",
    "kit.models",
    "kit.data",
    "kit.demo",
    "kit.labels",
    "kit.runs",
    "kit.config_file",
    "kit.config",
    "kit.functions",
    "kit.statistics",
    "kit.notices",
    "kit.floors",
    "kit.errors",
    "kit.secrets",
]
SEAMS = {  # library: the only rooms that import it
    "trl": {"kit.stages", "kit.ppo"},
    "peft": {"kit.models"},
    "bitsandbytes": {"kit.models"},
    "typer": {"kit.cli", "kit.cli_label", "kit.exits"},
    "yaml": {"kit.config_file"},
    "starlette": {"kit.labelling"},
    "uvicorn": {"kit.labelling"},
}
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "matplotlib", "scipy", "wandb", "starlette", "uvicorn")
# What stands in the package itself: the public names, imported when they are first used.
PACKAGE = "kit"


def room_of(module: str) -> str:
    """The line of LAYERS a module belongs to: kit.data.files -> kit.data."""
    return ".".join(module.split(".")[:2])


def module_of(file: Path) -> str:
    """The dotted name of a source file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported(source: str, module: str, package: bool) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import of a source, those inside functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                above = here[: len(here) - node.level + package]
                base = ".".join([*above, *([node.module] if node.module else [])])
            if base == PACKAGE:  # `from kit import notices` imports the room, not the package
                yield from ((f"{PACKAGE}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield base, node.lineno


def imports_of(file: Path) -> Iterator[tuple[str, int]]:
    return modules_imported(file.read_text(encoding="utf-8"), module_of(file), file.name == "__init__.py")


SOURCES = sorted((ROOT / "kit").rglob("*.py"))


class TestImports:
    def test_every_room_has_its_line(self):
        rooms = {room_of(module_of(file)) for file in SOURCES} - {PACKAGE}
        assert rooms == set(LAYERS)

    @pytest.mark.parametrize("file", [file for file in SOURCES if module_of(file) != PACKAGE], ids=module_of)
    def test_point_downwards(self, file):
        here = room_of(module_of(file))
        upward = [
            f"{file.relative_to(ROOT)}:{line} imports {name}"
            for name, line in imports_of(file)
            if name.split(".")[0] == PACKAGE
            and room_of(name) != here
            and (room_of(name) not in LAYERS or LAYERS.index(room_of(name)) < LAYERS.index(here))
        ]
        assert not upward

    @pytest.mark.parametrize("library", SEAMS)
    def test_a_library_has_one_seam(self, library):
        strangers = [
            f"{file.relative_to(ROOT)}:{line} imports {name}"
            for file in SOURCES
            for name, line in imports_of(file)
            if name.split(".")[0] == library and room_of(module_of(file)) not in SEAMS[library]
        ]
        assert not strangers

    def test_nothing_is_imported_by_a_text_that_hides_it(self):
        hidden = [
            f"{file.relative_to(ROOT)}:{node.lineno}"
            for file in SOURCES
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
        ]
        assert sorted(place.split(":")[0] for place in hidden) == [
            "kit/__init__.py",
            "kit/functions.py",  # the user's own module
            "kit/ppo/__init__.py",
        ]  # fmt: skip


class TestTheReaderOfImports:
    def test_sees_imports_inside_functions(self):
        source = "def f():\n    from kit.cli import app\n"
        assert list(modules_imported(source, "kit.data.files", package=False)) == [("kit.cli", 2)]

    def test_reads_the_room_from_an_import_of_the_package(self):
        found = modules_imported("from kit import pipeline, notices", "kit.data.files", package=False)
        assert [name for name, _ in found] == ["kit.pipeline", "kit.notices"]

    @pytest.mark.parametrize(
        "source, package, name",
        [
            ("from . import split", False, "kit.data"),
            ("from .split import halves", False, "kit.data.split"),
            ("from ..cli import app", False, "kit.cli"),
            ("from .split import halves", True, "kit.data.files.split"),
        ],
    )
    def test_resolves_relative_imports(self, source, package, name):
        assert [found for found, _ in modules_imported(source, "kit.data.files", package)] == [name]


class TestImportingTheKit:
    @staticmethod
    def loaded_after(statement: str) -> set[str]:
        code = f"import sys; sys.argv = ['kit']\n{statement}\nprint(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    def test_loads_nothing_heavy(self):
        assert not self.loaded_after("import kit") & {*HEAVY, "pydantic", "yaml", "numpy"}

    def test_through_the_command_line_loads_nothing_heavy(self):
        assert not self.loaded_after("import kit.cli") & set(HEAVY)

    def test_offers_every_public_name(self):
        assert all(hasattr(kit, name) for name in kit.__all__)


class TestTheVersion:
    def test_is_the_same_in_the_package_the_project_file_and_the_changelog(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        headings = [
            line
            for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
            if line.startswith("## ") and line != "## Unreleased"
        ]
        newest = headings[0].removeprefix("## ").split()[0]
        assert kit.__version__ == project == newest


def pinned_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def names_of(requirements: list[str]) -> set[str]:
    """The packages' names as package indexes spell them."""
    return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}


class TestTheConstraints:
    def test_pin_one_version_of_each_package_and_nothing_else(self):
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned_lines())
        assert len(names_of(pinned_lines())) == len(pinned_lines())

    def test_cover_every_direct_dependency(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [
            *project["dependencies"],
            *(one for extra in project["optional-dependencies"].values() for one in extra),
        ]
        assert names_of(wanted) - {project["name"]} <= names_of(pinned_lines())

    def test_name_nothing_of_cuda_and_no_local_build_of_torch(self):
        assert "torch==2.13.0" in pinned_lines()
        assert not [line for line in pinned_lines() if line.startswith(("nvidia", "cuda", "triton"))]
