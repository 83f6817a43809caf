"""Every text about data stands in one catalogue: nothing is raised, dropped or noted in words of its own."""

import ast
import string
from pathlib import Path

import pytest

from kit.data import catalogue

ROOM = Path(catalogue.__file__).parent
SOURCES = sorted(file for file in ROOM.rglob("*.py") if file.name != "catalogue.py")
TEXTS = {name: text for name, text in vars(catalogue).items() if name.isupper()}
SPEAKING = ("DataError", "RowProblem", "Unusable", "NoForm", "Drop")


def words(node: ast.AST) -> list[str]:
    """The literal texts within a call that say something: more than punctuation and glue."""
    return [
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and " " in inner.value.strip()
    ]


class TestCatalogue:
    @pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOM)))
    def test_no_error_has_words_of_its_own(self, file):
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAKING
        ]
        found = {f"{file.name}:{call.lineno}": words(argument) for call in calls for argument in call.args}
        assert not {place: texts for place, texts in found.items() if texts}

    def test_every_text_is_used(self):
        code = "\n".join(file.read_text(encoding="utf-8") for file in ROOM.parent.rglob("*.py"))
        assert not [name for name in TEXTS if f"catalogue.{name}" not in code]

    @pytest.mark.parametrize("name", TEXTS)
    def test_every_text_is_a_template_that_can_be_filled(self, name):
        fields = {field for _, field, _, _ in string.Formatter().parse(TEXTS[name]) if field is not None}
        assert all(field.isidentifier() for field in fields)
