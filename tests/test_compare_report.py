"""What a reader of the comparison sees: sentence, cautions, table, figures, page; and what no data can do to it."""

import copy
import json
import math
import os
import re
from html.parser import HTMLParser
from io import BytesIO, StringIO, TextIOWrapper
from xml.etree import ElementTree

import matplotlib
import pytest
from rich.console import Console

from kit.compare import report
from kit.compare.figures import SERIES, arm_pictures, learning_curves, points, series_of
from kit.compare.report import markdown, visible, write_report
from kit.compare.result import Answer, Arm, Comparison, build_metrics
from kit.compare.table import cautions, duration, interval_text, number, plain_text, print_comparison, size
from kit.compare.table import verdict_sentence as sentence
from kit.errors import RunError

ATTACK = "</script><img src=x onerror=alert(1)> \u202egnp.exe\x1b[31m\x07 ```` | **b** \ud800"
FACTS = {"Base model": "demo", "Sampling": "temperature 1"}
PROMPTS = [[{"role": "user", "content": f"question {i}"}] for i in range(60)]
CURVES = {
    "sft": [{"step": i, "loss": 2 / (1 + i)} for i in range(5)] + [{"step": 4, "eval_loss": 0.5}],
    "reward": [{"step": i, "accuracy": 0.5 + i / 20} for i in range(5)],
    "ppo": [{"episode": 32 * i, "objective/scores": i / 9, "objective/kl": i / 5, "eos_rate": 1.0} for i in range(120)],
}


def an_arm(name: str, shift: float, **changes) -> Arm:
    answers = [Answer(f"{name} answers {i}", shift + i % 3, 2 * shift, abs(shift), 20, True) for i in range(60)]
    return Arm(name, answers, **{"train_seconds": 12.0, "peak_bytes": 3 << 30, **changes})


def arms() -> list[Arm]:
    return [an_arm("sft", 0.0), an_arm("dpo", 1.0), an_arm("ppo", 2.0)]


@pytest.fixture
def metrics() -> dict:
    return build_metrics(arms(), PROMPTS, "truth", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A written comparison that tests only read."""
    out = tmp_path_factory.mktemp("run") / "compare"
    write_report(out, build_metrics(arms(), PROMPTS, "truth", 0), PROMPTS, arms(), CURVES, FACTS)
    return out


class Page(HTMLParser):
    """The tags, attributes, ids and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


class TestVerdictSentence:
    def pair(self, metrics, **changes):
        changed = copy.deepcopy(metrics)
        changed["pairs"]["ppo_vs_dpo"] |= changes
        return sentence(changed)

    def test_it_says_who_won_how_often_and_who_judged(self, metrics):
        found = self.pair(metrics, win_rate=0.63, ci95=[0.56, 0.70], tie_rate=0.0, verdict="ppo")
        expected = "PPO beat DPO on 63 % of 60 held-out prompts (95 % interval 56-70 %), judged by the truth."
        assert found == expected

    def test_it_takes_the_winner_s_side(self, metrics):
        found = self.pair(metrics, win_rate=0.3, ci95=[0.2, 0.4], tie_rate=0.1, verdict="dpo")
        assert found.startswith("DPO beat PPO on 70 %")
        assert "60-80 %; ties, 10 %, count half" in found

    def test_no_difference_is_said_as_such(self, metrics):
        found = self.pair(metrics, win_rate=0.53, ci95=[0.46, 0.6], tie_rate=0.0, verdict="no difference")
        assert found.startswith("No difference:")
        assert "the interval holds 50 %" in found

    def test_without_the_pair_each_arm_is_set_against_sft(self):
        found = sentence(build_metrics(arms()[:2], PROMPTS, "truth", 0))
        assert found.startswith("DPO won against SFT on 100 %")

    def test_with_one_arm_there_is_no_verdict(self):
        assert sentence(build_metrics(arms()[:1], PROMPTS, "truth", 0)).startswith("No verdict")

    def test_an_end_just_above_a_half_is_not_rounded_onto_it(self):
        assert interval_text([0.5004, 0.62]) == "95 % interval 50.04-62.00 %"
        assert interval_text([0.5, 0.62]) == "95 % interval 50-62 %"


class TestCautions:
    def test_a_clean_comparison_has_none(self, metrics):
        assert cautions(metrics) == []

    def test_the_reward_model_as_judge_is_said_first_and_in_the_verdict(self):
        found = build_metrics(arms(), PROMPTS, "reward_model", 0)
        assert cautions(found)[0].startswith("PPO was trained on this very judge")
        assert "judged by the reward model that PPO was trained on" in sentence(found)

    def test_proxy_up_and_truth_down_looks_like_hacking(self):
        hacked = Arm("ppo", [Answer("a", -5.0, 9.0, 3.0, 20, True)] * 60, None, None)
        assert "reward hacking" in cautions(build_metrics([arms()[0], hacked], PROMPTS, "truth", 0))[0]

    def test_long_cut_off_and_unscored_answers_are_named(self):
        odd = [Answer("a", 1.0 if i else None, 1.0, 3.0, 90, False) for i in range(60)]
        found = " ".join(cautions(build_metrics([arms()[0], Arm("ppo", odd, None, None)], PROMPTS, "truth", 0)))
        assert "4.5 times as many tokens" in found
        assert "100 % of the answers were cut off" in found
        assert "1 of 60 answers without a score" in found

    def test_few_prompts_are_named(self):
        few = [Arm(a.name, a.answers[:9], None, None) for a in arms()]
        assert "Only 9 prompts" in cautions(build_metrics(few, PROMPTS[:9], "truth", 0))[0]


class TestTable:
    def test_it_fits_80_columns_with_every_column(self, metrics):
        lines = plain_text(metrics, width=80).splitlines()
        assert max(map(len, lines)) <= 80
        assert "3.0 GiB" in lines[5]

    def test_a_narrow_terminal_loses_columns_and_never_digits(self, metrics):
        text = plain_text(metrics, width=50)
        assert max(map(len, text.splitlines())) <= 50
        assert "…" not in text
        assert "not shown for lack of room" in text

    def test_a_terminal_without_unicode_is_served(self, metrics):
        bytes_ = BytesIO()
        stream = TextIOWrapper(bytes_, encoding="ascii")
        print_comparison(metrics, Console(file=stream, width=80))
        stream.flush()
        assert b"+-" in bytes_.getvalue()

    def test_an_arm_s_name_is_not_read_as_markup(self, metrics):
        metrics["arms"]["[red]x[/red]"] = metrics["arms"].pop("sft")
        assert "[red]x[/red]" in plain_text(metrics)

    def test_numbers_read_as_people_write_them(self):
        assert [duration(s) for s in (None, 16, 252, 5400, 7200)] == ["-", "16 s", "4.2 min", "90.0 min", "2.0 h"]
        assert [size(b) for b in (None, 412 << 20, 3 << 30)] == ["-", "412 MiB", "3.0 GiB"]
        assert number(-0.0001) == "0.00"


class TestFigures:
    def test_each_stage_gets_the_panels_its_log_has_values_for(self):
        found = {stage: [p.title for p in pictures] for stage, pictures in learning_curves(CURVES).items()}
        assert found == {
            "sft": ["Loss"],
            "reward": ["Pairs ranked right"],
            "ppo": ["Reward", "KL from SFT", "Ended by itself"],
        }

    @pytest.mark.parametrize(
        "log", [[], [{}], [{"loss": None}], [{"loss": math.nan}], [{"loss": "high"}], [{"loss": True}], [{"loss": [1]}]]
    )
    def test_a_log_without_numbers_draws_nothing(self, log):
        assert learning_curves({"sft": log}) == {}

    def test_an_unknown_stage_is_drawn_by_the_common_keys(self):
        assert list(learning_curves({"odd $stage$": [{"loss": 1.0}, {"loss": "0.5"}]})) == ["odd $stage$"]

    def test_the_first_key_that_occurs_wins(self):
        assert points([{"step": 1, "b": 2.0}, {"step": 2}], "step", ["a", "b"]) == [(1.0, 2.0)]

    def test_pictures_are_well_formed_and_their_ids_are_unique_on_the_page(self, metrics):
        pictures = arm_pictures(metrics) + [p for drawn in learning_curves(CURVES).values() for p in drawn]
        ids = []
        for picture in pictures:
            root = ElementTree.fromstring(picture.svg)
            own = [element.get("id") for element in root.iter() if element.get("id")]
            assert set(re.findall(r"url\(#([^)]+)\)", picture.svg)) <= set(own)
            ids += own
        assert len(ids) == len(set(ids))

    def test_colours_follow_the_page(self, metrics):
        svg = "".join(picture.svg for picture in arm_pictures(metrics))
        assert "currentColor" in svg
        assert not [c for c in SERIES if c in re.sub(r"var\(--s\d, #[0-9a-f]{6}\)", "", svg)]

    def test_pictures_are_small_even_of_long_logs(self):
        log = [{"step": i, "loss": math.sin(i)} for i in range(20_000)]
        assert len(learning_curves({"sft": log})["sft"][0].svg) < 25_000

    def test_an_arm_keeps_its_colour_whoever_else_is_there(self):
        assert series_of(["ppo", "x"])["ppo"] == series_of(["sft", "dpo", "ppo"])["ppo"]

    def test_nothing_is_drawn_of_arms_without_numbers(self):
        nothing = Arm("sft", [Answer("", None, None, math.nan, 0, True)] * 60, None, None)
        assert arm_pictures(build_metrics([nothing], PROMPTS, "truth", 0)) == []

    def test_the_caller_s_matplotlib_settings_stay_as_they_were(self, metrics):
        before = dict(matplotlib.rcParams)
        arm_pictures(metrics)
        assert dict(matplotlib.rcParams) == before

    def test_an_arm_s_name_is_neither_mathematics_nor_markup(self, metrics):
        metrics["arms"]["$x^{$<b>"] = metrics["arms"].pop("dpo")
        for picture in arm_pictures(metrics):
            ElementTree.fromstring(picture.svg)


class TestFiles:
    def test_metrics_json_holds_the_metrics(self, folder, metrics):
        assert json.loads((folder / "metrics.json").read_text()) == metrics

    def test_samples_jsonl_has_a_line_per_prompt_with_every_arm_s_answer(self, folder):
        lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().split("\n")[:-1]]
        assert len(lines) == 60
        assert lines[7]["prompt"] == PROMPTS[7]
        assert lines[7]["arms"]["dpo"] == {
            "text": "dpo answers 7",
            "true_reward": 2.0,
            "proxy_reward": 2.0,
            "kl_nats": 1.0,
            "response_tokens": 20,
            "ended": True,
        }

    def test_metrics_json_comes_last_and_nothing_half_written_is_left(self, tmp_path, metrics, monkeypatch):
        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_report(tmp_path, metrics, PROMPTS, arms(), {}, {})
        assert not (tmp_path / "metrics.json").exists()

    def test_nan_never_reaches_metrics_json(self, tmp_path, metrics):
        metrics["arms"]["ppo"]["train_seconds"] = math.nan
        with pytest.raises(ValueError, match="JSON"):
            write_report(tmp_path, metrics, PROMPTS, arms(), {}, {})
        assert not (tmp_path / "metrics.json").exists()

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_any_number_of_arms_and_no_prompts_make_a_report(self, tmp_path, count):
        few = [Arm(a.name, [], None, None) for a in arms()[:count]]
        write_report(tmp_path, build_metrics(few, [], "truth", 0), [], few, {}, {})
        assert "No verdict" in (tmp_path / "report.html").read_text()


class TestPage:
    def test_it_needs_nothing_from_elsewhere_and_runs_no_script(self, folder):
        page = Page((folder / "report.html").read_text())
        assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
        assert all(value.startswith("#") for value in page.values("href") + page.values("src"))

    def test_its_ids_are_unique_and_its_links_arrive(self, folder):
        page = Page((folder / "report.html").read_text())
        assert len(page.values("id")) == len(set(page.values("id")))
        assert {link[1:] for link in page.values("href")} <= set(page.values("id"))

    def test_it_says_verdict_facts_limits_and_answers(self, folder, metrics):
        text = Page((folder / "report.html").read_text()).text
        for part in (sentence(metrics), "temperature 1", "What this does not show", "ppo answers 0", "question 57"):
            assert part in text

    def test_it_shows_twenty_samples_spread_over_the_prompts(self, folder):
        assert Page((folder / "report.html").read_text()).tags.count("details") == 20

    def test_it_serves_dark_screens_phones_and_paper(self, folder):
        text = (folder / "report.html").read_text()
        for part in ("prefers-color-scheme: dark", 'name="viewport"', "@media print", "max-width: 36rem"):
            assert part in text

    def test_the_reward_model_as_judge_is_warned_of_on_page_and_in_text(self, tmp_path):
        write_report(tmp_path, build_metrics(arms(), PROMPTS, "reward_model", 0), PROMPTS, arms(), {}, {})
        for name in ("report.html", "report.md"):
            assert "trained on this very judge" in (tmp_path / name).read_text()


class TestHostileText:
    @pytest.fixture
    def attacked(self, tmp_path):
        answers = [Answer(ATTACK, 1.0, 1.0, 1.0, 9, True)]
        hostile = [Arm(name, answers, None, None) for name in ("sft", "dpo", "ppo", ATTACK)]
        parts = [{"type": "text", "text": ATTACK}]
        prompts = [[{"role": ATTACK, "content": ATTACK}, {"role": "user", "content": parts}]]
        found = build_metrics(hostile, prompts, "truth", 0)
        page = report.html(found, prompts, hostile, {ATTACK: [{"loss": 1.0}]}, {ATTACK: ATTACK})
        text = markdown(found, prompts, hostile, {ATTACK: ATTACK})
        write_report(tmp_path, build_metrics(hostile[:3], prompts, "truth", 0), prompts, hostile[:3], {}, {})
        return page, text, (tmp_path / "samples.jsonl").read_text().removesuffix("\n")

    def test_it_is_shown_and_never_obeyed(self, attacked):
        page = Page(attacked[0])
        assert not {"script", "img", "b"} & set(page.tags)
        assert not [key for key, _ in page.attributes if key.startswith("on")]
        assert "</script><img src=x onerror=alert(1)>" in page.text

    def test_hidden_characters_are_written_out(self, attacked):
        for text in attacked[:2]:
            assert not set(text) & set("\u202e\x1b\x07\ud800")
            assert "⟨U+202E⟩" in text

    def test_markdown_keeps_it_inside_fences_and_cells(self, attacked):
        outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", attacked[1], flags=re.DOTALL | re.MULTILINE)
        assert "<img" not in outside
        assert "`````text" in attacked[1]

    def test_samples_jsonl_loses_nothing_of_it_on_one_clean_line(self, attacked):
        line = attacked[2]
        assert len(line.splitlines()) == 1
        assert not set(line) & set("\u202e\x1b\x07\ud800")
        assert json.loads(line)["arms"]["ppo"]["text"] == ATTACK

    def test_line_breaks_tabs_and_other_scripts_stay(self):
        assert visible("a\tb\r\nc é 日本 שלום 👩\u200d🔧") == "a\tb\nc é 日本 שלום 👩\u200d🔧"

    def test_tag_characters_cannot_smuggle_a_message(self):
        assert visible("a\U000e0041") == "a⟨U+E0041⟩"


class TestComparison:
    def test_it_is_read_back_from_its_folder(self, folder, metrics):
        found = Comparison.load(folder)
        assert (found.metrics, found.path) == (metrics, folder)

    def test_it_prints_as_a_plain_table(self, folder, metrics):
        text = str(Comparison.load(folder))
        assert repr(Comparison.load(folder)) == text
        assert "\x1b" not in text
        assert "PPO beat DPO" in text

    def test_a_notebook_shows_verdict_and_table_in_its_own_colours(self, folder):
        page = Page(Comparison.load(folder)._repr_html_())
        assert page.tags.count("tr") == 4
        assert "PPO beat DPO" in page.text
        assert not {"script", "style", "link"} & set(page.tags)
        assert all("color:#" not in style for style in page.values("style"))

    def test_a_notebook_escapes_what_it_shows(self, metrics, tmp_path):
        metrics["arms"]["<b>"] = metrics["arms"].pop("sft")
        assert "b" not in Page(Comparison(metrics, tmp_path)._repr_html_()).tags

    @pytest.mark.parametrize(
        ("content", "message"), [(None, "no comparison here"), ("{", "cannot be read"), ("[]", "not the metrics")]
    )
    def test_a_folder_without_a_whole_comparison_is_refused(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(RunError, match=message):
            Comparison.load(tmp_path)


def test_printing_to_a_pipe_has_no_colours(metrics):
    out = StringIO()
    print_comparison(metrics, Console(file=out))
    assert "\x1b" not in out.getvalue()
