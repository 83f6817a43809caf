"""Text of data, models, configs and strangers' results, as terminals and pages show it: as text, and nothing else."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from comparison import full_metrics
from toy import base_folder
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.compare.report.table import plain_text, print_comparison
from kit.compare.result import Comparison
from kit.compare.side_by_side import SideBySide, print_runs
from kit.errors import printable

MARK = "<img src=x onerror=alert(1)>"
HOSTILE = f"{MARK}</script><script>alert(2)</script>\x1b[2J\x1b]0;t\x07\x9b\u202egpj\u2066\u200b\U000e0041[red]x[/red]"
SHORT = f"b\x1b[2J{MARK}\u202e"  # fits a file's name


class Tags(HTMLParser):
    """The tags of a page, and the attributes that would run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names, self.handlers = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def assert_plain(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069\U000e0000-\U000e007f]", text), (
        ascii(text)
    )


def assert_page(page: str) -> None:
    assert_plain(page)
    found = Tags(page)
    assert "img" not in found.names and found.handlers == []
    assert "<script>alert" not in page


@pytest.fixture
def config(tmp_path):
    """A config in which every name that a stranger can choose is hostile."""
    rows = [{"prompt": f"{HOSTILE} {i}", "chosen": f"good {HOSTILE}", "rejected": f"{HOSTILE} bad"} for i in range(40)]
    data, base = tmp_path / f"{SHORT}.jsonl", tmp_path / SHORT
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(base_folder(), base)
    settings = {
        "name": "x", "output_dir": str(tmp_path / f"out{SHORT}"), "stages": ["sft", "dpo"],
        "model": {"base": str(base)},
        "data": {"preferences": str(data), "max_prompt_tokens": 512, "max_response_tokens": 512},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    return tmp_path / "run.yaml"


def said(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in (0, 2), result.exception
    return result.output


class TestAConfig:
    @pytest.mark.parametrize("more", [(), ("--json",)])
    def test_is_checked_as_text(self, config, more):
        text = said("check", config, *more)
        assert_plain(text)
        assert "img src=x" in text

    def test_is_checked_on_a_page_that_loads_and_runs_nothing(self, config, tmp_path):
        said("check", config, "--html", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert_page(page)
        assert "script" not in Tags(page).names
        assert "Content-Security-Policy" in page and "default-src 'none'" in page

    def test_is_checked_in_a_notebook(self, config):
        found = kit.check(config)
        assert_page(found._repr_html_())
        assert_plain(str(found))

    @pytest.mark.parametrize("card", ["12", "0.01"])
    def test_is_planned_as_text(self, config, card):
        assert_plain(said("plan", config, "--gpu-memory-gib", card))

    @pytest.mark.parametrize("override", [f"seed={HOSTILE}", f"{HOSTILE}=1", f"compare.judge={HOSTILE}", HOSTILE])
    def test_with_a_hostile_override_is_refused_as_text(self, config, override):
        assert_plain(said("run", config, override))

    @pytest.mark.parametrize("command", ["run", "check", "compare", "plan"])
    def test_of_a_hostile_name_is_missed_as_text(self, tmp_path, command):
        assert_plain(said(command, tmp_path / f"no{SHORT}"))


@pytest.fixture
def metrics():
    """metrics.json of a stranger, whose judge and one of whose arms have hostile names."""
    found = full_metrics()
    found["arms"] = {**found["arms"], f"evil{HOSTILE}": dict(found["arms"]["dpo"])}
    found["judge_facts"] = {**(found.get("judge_facts") or {}), "description": HOSTILE}
    return {**found, "judge": HOSTILE}


class TestAStrangersResult:
    def test_is_printed_as_text(self, metrics, capsys):
        print_comparison(metrics)
        assert_plain(capsys.readouterr().out)
        assert_plain(plain_text(metrics))

    def test_is_printed_beside_another_as_text(self, metrics, capsys, tmp_path):
        print_runs(SideBySide({f"a{HOSTILE}": Comparison(metrics, tmp_path)}, [], f"judged by {HOSTILE}"))
        assert_plain(capsys.readouterr().out)

    def test_is_shown_in_a_notebook_as_text(self, metrics, tmp_path):
        page = Comparison(metrics, tmp_path / SHORT)._repr_html_()
        assert_page(page)
        assert "script" not in Tags(page).names


def test_a_message_shows_hidden_characters_as_escapes():
    text = printable(HOSTILE)
    assert_plain(text)
    assert r"\x1b[2J" in text and r"\u202egpj" in text and r"\u200b" in text and MARK in text
