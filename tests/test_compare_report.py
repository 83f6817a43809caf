"""What a reader of the comparison sees: sentence, cautions, table, figures, page; and what no data can do to it."""

import base64
import copy
import hashlib
import json
import math
import os
import re
from html.parser import HTMLParser
from io import BytesIO, StringIO, TextIOWrapper
from xml.etree import ElementTree

import matplotlib
import pytest
from comparison import NAMES, answering_arms, full_metrics, least_metrics, measured
from comparison import PROMPTS as MANY
from rich.console import Console

from kit.compare.judges.votes import votes_key
from kit.compare.report import page as report
from kit.compare.report import plots
from kit.compare.report.curves import learning_curves, points
from kit.compare.report.figures import SERIES, Picture, series_of
from kit.compare.report.markdown import markdown
from kit.compare.report.page import write_report
from kit.compare.report.panel import hacking_panel, hacking_sentences
from kit.compare.report.sections import cost, judge_facts, length_sentence, numbers
from kit.compare.report.table import plain_text, print_comparison, rows
from kit.compare.report.text import duration, interval_text, number, signed, size, visible
from kit.compare.report.words import cautions, details, limits, prompts_sentence
from kit.compare.report.words import verdict_sentence as sentence
from kit.compare.result import Answer, Arm, Comparison
from kit.compare.side_by_side import compare_runs
from kit.errors import RunError

ATTACK = "</script><img src=x onerror=alert(1)> \u202egnp.exe\x1b[31m\x07 ```` | **b** \ud800"
FACTS = {"Base model": "demo", "Sampling": "temperature 1"}
PROMPTS = [[{"role": "user", "content": f"question {i}"}] for i in range(60)]
CURVES = {
    "sft": [{"step": i, "loss": 2 / (1 + i)} for i in range(5)] + [{"step": 4, "eval_loss": 0.5}],
    "reward": [{"step": i, "accuracy": 0.5 + i / 20} for i in range(5)],
    "ppo": [{"episode": 32 * i, "objective/scores": i / 9, "objective/kl": i / 5, "eos_rate": 1.0} for i in range(120)],
}


def an_arm(name: str, shift: float) -> Arm:
    answers = [Answer(f"{name} answers {i}", shift + i % 3, 2 * shift, abs(shift), 20, True) for i in range(60)]
    return Arm(name, answers)


def pictures_of(metrics) -> list[Picture]:
    """All of the page's figures but the learning curves."""
    draw = (plots.score_against_kl, plots.win_rates, plots.head_to_head, plots.gate, plots.calibration)
    return [picture for one in draw if (picture := one(metrics))] + plots.rewards(metrics)


def arms() -> list[Arm]:
    return [an_arm("sft", 0.0), an_arm("dpo", 1.0), an_arm("ppo", 2.0)]


@pytest.fixture
def metrics() -> dict:
    return measured(arms())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A written comparison that tests only read."""
    out = tmp_path_factory.mktemp("run") / "compare"
    write_report(out, measured(arms()), PROMPTS, arms(), CURVES, FACTS)
    return out


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Page and text of a comparison in which every key has a value."""
    out = tmp_path_factory.mktemp("full")
    write_report(out, full_metrics(), MANY, answering_arms(), CURVES, FACTS)
    return (out / "report.html").read_text(), (out / "report.md").read_text()


@pytest.fixture(scope="module")
def samples(full):
    """The page's samples, each its HTML."""
    return re.split('<details class="box"', full[0])[1:]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Page, text and samples.jsonl of a comparison in which every text is an attack."""
    tmp_path = tmp_path_factory.mktemp("attacked")
    answers = [Answer(ATTACK, 1.0, 1.0, 1.0, 9, True)]
    hostile = [Arm(name, answers) for name in ("sft", "dpo", "ppo", ATTACK)]
    parts = [{"type": "text", "text": ATTACK}]
    prompts = [[{"role": ATTACK, "content": ATTACK}, {"role": "user", "content": parts}]]
    found = measured(hostile)
    page = report.html(found, prompts, hostile, {ATTACK: [{"loss": 1.0}]}, {ATTACK: ATTACK})
    text = markdown(found, prompts, hostile, {ATTACK: ATTACK})
    write_report(tmp_path, measured(hostile[:3]), prompts, hostile[:3], {}, {})
    return page, text, (tmp_path / "samples.jsonl").read_text().removesuffix("\n")


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

    def test_a_judge_that_calls_nearly_all_a_tie_gives_no_verdict_however_narrow_its_interval(self, metrics):
        found = self.pair(metrics, win_rate=0.5, ci95=[0.5, 0.5], tie_rate=0.97, verdict="no difference")
        assert found.startswith("No verdict: 97 % of") and "are ties" in found

    def test_without_the_pair_each_arm_is_set_against_sft(self):
        found = sentence(measured(arms()[:2]))
        assert found.startswith("DPO won against SFT on 100 %")

    def test_with_one_arm_there_is_no_verdict(self):
        assert sentence(measured(arms()[:1])).startswith("No verdict")

    def test_a_missing_winner_comes_with_the_prompts_it_would_have_taken(self, metrics):
        assert prompts_sentence(metrics) is None
        assert "it takes about 2,140 prompts to show it; there were 200" in prompts_sentence(full_metrics())

    @pytest.mark.parametrize(
        ("judge", "said"),
        [("truth", "the truth"), ("held_out", "a reward model trained on pairs set aside for judging"),
         ("llm", "a language model"), ("votes", "people's votes"), ("my.py:fair", "the function my.py:fair")],
    )  # fmt: skip
    def test_every_judge_has_its_name(self, judge, said):
        found = full_metrics() | {"judge": judge}
        assert sentence(found).endswith(f"judged by {said}.")
        assert limits(found)[1]

    def test_an_end_just_above_a_half_is_not_rounded_onto_it(self):
        assert interval_text([0.5004, 0.62]) == "95 % interval 50.04-62.00 %"
        assert interval_text([0.5, 0.62]) == "95 % interval 50-62 %"


class TestCautions:
    def test_a_clean_comparison_has_none(self, metrics):
        assert cautions(metrics) == []

    def test_the_reward_model_as_judge_is_said_first_and_in_the_verdict(self):
        found = measured(arms(), "reward_model")
        assert cautions(found)[0].startswith("PPO was trained on this very judge")
        assert "judged by the reward model that PPO was trained on" in sentence(found)

    def test_proxy_up_and_truth_down_looks_like_hacking(self):
        hacked = Arm("ppo", [Answer("a", -5.0, 9.0, 3.0, 20, True)] * 60)
        assert "reward hacking" in cautions(measured([arms()[0], hacked]))[0]

    def test_long_cut_off_and_unscored_answers_are_named(self):
        odd = [Answer("a", 1.0 if i else None, 1.0, 3.0, 90, False) for i in range(60)]
        found = " ".join(cautions(measured([arms()[0], Arm("ppo", odd)])))
        assert "4.5 times as many tokens" in found
        assert "100 % of the answers were cut off" in found
        assert "no verdict against SFT on 1 of 60 prompts" in found

    def test_few_prompts_are_named(self):
        few = [Arm(a.name, a.answers[:9]) for a in arms()]
        assert "Only 9 prompts" in cautions(measured(few))[0]

    def test_a_reward_model_that_only_knows_length_is_named_where_an_arm_learned_from_it(self):
        found = full_metrics()
        assert not [note for note in cautions(found) if "reward model" in note]
        found["reward_model"]["verdict"] = "no better than length"
        assert [note for note in cautions(found) if "not better than choosing by length" in note]
        del found["arms"]["ppo"]
        assert not [note for note in cautions(found) if "choosing by length" in note]

    def test_a_verdict_that_length_or_kl_overturns_is_named(self):
        found = full_metrics()
        assert [note for note in cautions(found) if note.startswith("At equal KL from SFT the verdict is another")]
        pair = found["pairs"]["ppo_vs_dpo"]
        pair |= {"win_rate": 0.6, "ci95": [0.53, 0.67], "verdict": "ppo"}
        assert [note for note in cautions(found) if note.startswith("At equal length the verdict does not hold")]
        assert not [note for note in cautions(found) if note.startswith("At equal KL")]

    def test_hacks_of_the_last_checkpoint_are_cautions_and_of_earlier_ones_are_not(self):
        found = " ".join(cautions(full_metrics()))
        assert "PPO, last checkpoint: reward hacking: proxy up" in found
        assert "step 80" not in found

    def test_what_a_control_does_by_design_is_no_caution(self):
        found = full_metrics()
        found["hacking"] = [{"arm": "best_of_n", "checkpoint": "last", "text": "says the same to every prompt"}]
        assert "says the same" not in " ".join(cautions(found))
        assert hacking_sentences(found) == ["best of n: says the same to every prompt."]
        assert not [note for note in cautions(found) if "of n writes" in note]

    def test_what_gives_the_judge_away_is_named(self):
        found = full_metrics()
        found["judge_facts"] |= {"consistency": 0.55}
        assert [note for note in cautions(found) if note.startswith("This judge keeps its verdict on only 55")]


class TestDetails:
    def test_one_seed_is_said_to_be_one(self):
        assert dict(details(least_metrics()))["Training luck"].startswith("one training run per arm (seed 0)")

    def test_several_seeds_are_listed_with_their_spread(self):
        assert "PPO won 51, 55, 54 %" in dict(details(full_metrics()))["Training luck"]

    def test_withheld_length_control_says_why(self):
        found = full_metrics()
        found["pairs"]["ppo_vs_dpo"]["length_controlled"] = None
        found["length_control"]["withheld"] = "too few pairs of nearly equal length"
        assert dict(details(found))["At equal length"] == "withheld: too few pairs of nearly equal length"
        assert "Where it is missing it was withheld: too few pairs" in length_sentence(found)
        for part in (*found["arms"].values(), *found["pairs"].values()):
            part |= {"win_rate_vs_sft_length_controlled": None, "length_controlled": None}
        assert length_sentence(found).startswith("Length-controlled rates are withheld: too few pairs")

    def test_a_matched_difference_in_wins_is_told_in_points(self):
        found = full_metrics()
        matched = found["pairs"]["ppo_vs_dpo"]["matched_kl"]
        matched |= {
            "unit": "win rate against SFT",
            "difference": {"mean": -0.08, "ci95": [-0.15, -0.01]},
            "verdict": "dpo",
        }
        told = dict(details(found))["At equal KL, 2.1 nats"]
        assert told == ("DPO ahead by 8 points of win rate against SFT (95 % interval of PPO less DPO: −15 to −1)")


class TestSections:
    def test_a_bound_on_the_kl_is_told_from_a_measured_one(self):
        kl = next(cells for title, _, cells in numbers(full_metrics()).rows if title == "KL from SFT")
        assert kl[2][0] == "3.8"
        assert kl[3] == ("≤ 0.64", "bound: ln n − (n−1)/n")

    def test_costs_that_nobody_measured_are_left_out(self):
        assert [title for title, _, _ in cost(least_metrics()).rows] == ["Training time", "Peak memory"]
        assert [title for title, _, _ in cost(full_metrics()).rows][1:3] == ["Generated", "Trained on"]

    def test_the_judge_s_taste_for_a_slot_is_said_only_where_the_interval_shows_it(self):
        found = full_metrics()
        assert "leans to a side" in dict(judge_facts(found))["The answer shown first won"]
        found["judge_facts"]["first_slot_ci95"] = [0.49, 0.62]
        assert "leans" not in dict(judge_facts(found))["The answer shown first won"]

    def test_flagged_cells_carry_a_symbol_and_a_word(self):
        rows_ = {measure.title: cells for measure, cells in hacking_panel(full_metrics())[0].rows}
        assert [cell.flag for cell in rows_["Length"]] == [None, None, ("▲", "up")]
        assert rows_["Entropy"][2].flag == ("▼", "down")
        assert rows_["Proxy reward"][2].flag == ("▲", "up")
        assert [rows_[name][2].warns for name in ("Length", "Entropy", "Proxy reward")] == [True, True, False]
        assert (rows_["Repeats itself"][2].value, rows_["Repeats itself"][2].change) == ("19.0 %", "+17.0")
        assert rows_["Repeats itself"][2].interval == "+11.0 to +23.0"
        assert "Refusals" not in rows_

    def test_every_checkpoint_has_its_table_beside_the_arms(self):
        assert [table.title for table in hacking_panel(full_metrics())] == [
            "As compared", "DPO, every checkpoint", "PPO, every checkpoint",
        ]  # fmt: skip

    def test_a_measure_nobody_foresaw_is_shown_by_its_name(self):
        found = full_metrics()
        found["panel"] = {"ppo": {"last": {"odd_<b>measure": {"mean": 0.5}}}}
        measure, cells = hacking_panel(found)[0].rows[0]
        assert (measure.title, cells[0].value, cells[0].change) == ("Odd <b>measure", "0.50", "")


class TestTable:
    def test_it_fits_80_columns_with_every_column(self, metrics):
        lines = plain_text(metrics, width=80).splitlines()
        assert max(map(len, lines)) <= 80
        assert "3.0 GiB" in lines[5]

    def test_a_column_that_nothing_is_known_of_is_left_out(self):
        assert "true reward" not in rows(least_metrics())[0]
        assert "at equal length" in rows(full_metrics())[0]

    def test_it_says_what_a_sceptic_asks_next(self):
        text = " ".join(plain_text(full_metrics(), width=90).split())
        for part in (
            "about 2,140 prompts",
            "At equal length: 50 %",
            "At equal KL, 2.1 nats: PPO ahead",
            "seeds 0, 1, 2",
        ):
            assert part in text

    def test_a_narrow_terminal_loses_columns_and_never_digits(self, metrics):
        text = plain_text(metrics, width=50)
        assert max(map(len, text.splitlines())) <= 50
        assert "…" not in text
        assert "not shown for lack of room" in text

    def test_a_terminal_without_unicode_is_served(self, metrics):
        bytes_ = BytesIO()
        stream = TextIOWrapper(bytes_, encoding="ascii")
        print_comparison(metrics, Console(file=stream, width=80))
        print_comparison(full_metrics(), Console(file=stream, width=80))
        stream.flush()
        assert b"+-" in bytes_.getvalue()

    def test_an_arm_s_name_is_not_read_as_markup(self, metrics):
        metrics["arms"]["[red]x[/red]"] = metrics["arms"].pop("sft")
        assert "[red]x[/red]" in plain_text(metrics)

    def test_numbers_read_as_people_write_them(self):
        assert [duration(s) for s in (None, 16, 252, 5400, 7200)] == ["-", "16 s", "4.2 min", "90.0 min", "2.0 h"]
        assert [size(b) for b in (None, 412 << 20, 3 << 30)] == ["-", "412 MiB", "3.0 GiB"]
        assert number(-0.0001) == "0.00"
        assert [signed(d) for d in (0.2, -0.2, -0.001)] == ["+0.20", "−0.20", "0.00"]


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
        pictures = pictures_of(metrics) + [p for drawn in learning_curves(CURVES).values() for p in drawn]
        ids = []
        for picture in pictures:
            root = ElementTree.fromstring(picture.svg)
            own = [element.get("id") for element in root.iter() if element.get("id")]
            assert set(re.findall(r"url\(#([^)]+)\)", picture.svg)) <= set(own)
            ids += own
        assert len(ids) == len(set(ids))

    def test_colours_follow_the_page(self, metrics):
        svg = "".join(picture.svg for picture in pictures_of(metrics))
        assert "currentColor" in svg
        assert not [c for c in SERIES if c in re.sub(r"var\(--s\d, #[0-9a-f]{6}\)", "", svg)]

    def test_pictures_are_small_even_of_long_logs(self):
        log = [{"step": i, "loss": math.sin(i)} for i in range(20_000)]
        assert len(learning_curves({"sft": log})["sft"][0].svg) < 25_000

    def test_an_arm_keeps_its_colour_whoever_else_is_there(self):
        assert series_of(["ppo", "x"])["ppo"] == series_of(["sft", "dpo", "ppo"])["ppo"]

    def test_a_full_comparison_has_every_figure(self):
        assert [picture.title for picture in pictures_of(full_metrics())] == [
            "True reward and proxy over √KL", "Wins against SFT", "Head to head", "Pairs ranked as people did",
            "Is it as sure as it is right?", "True reward", "Proxy reward",
        ]  # fmt: skip

    def test_the_vertical_line_stands_only_where_a_matched_kl_is_known(self):
        found = full_metrics()
        assert "equal KL" in plots.score_against_kl(found).svg
        found["pairs"]["ppo_vs_dpo"]["matched_kl"] = None
        assert "equal KL" not in plots.score_against_kl(found).svg

    def test_a_description_tells_the_numbers_to_those_who_do_not_see_them(self):
        pairs, distance = plots.head_to_head(full_metrics()), plots.score_against_kl(full_metrics())
        assert "PPO v. DPO 53 % (95 % interval 46-60 %), at equal length 50 %" in pairs.description
        assert "PPO at a KL of 11.0 nats: judge 1.45, proxy 3.07" in distance.description

    def test_a_score_in_wins_has_its_line_at_a_half(self):
        found = full_metrics() | {"curve_unit": "win rate against SFT", "curves": None}
        assert plots.score_against_kl(found).title == "Win rate against SFT and proxy over √KL"

    def test_nothing_is_drawn_of_arms_without_numbers(self):
        nothing = Arm("sft", [Answer("", None, None, math.nan, 0, True)] * 60)
        assert pictures_of(measured([nothing])) == []

    def test_the_caller_s_matplotlib_settings_stay_as_they_were(self, metrics):
        before = dict(matplotlib.rcParams)
        pictures_of(metrics)
        assert dict(matplotlib.rcParams) == before

    def test_an_arm_s_name_is_neither_mathematics_nor_markup(self, metrics):
        metrics["arms"]["$x^{$<b>"] = metrics["arms"].pop("dpo")
        for picture in pictures_of(metrics):
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
            "judge_score": None,
            "proxy_reward": 2.0,
            "kl_nats": 1.0,
            "entropy_nats": None,
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
        few = [Arm(a.name, []) for a in arms()[:count]]
        write_report(tmp_path, measured(few), [], few, {}, {})
        assert "No verdict" in (tmp_path / "report.html").read_text()


class TestPage:
    def test_it_needs_nothing_from_elsewhere(self, folder):
        page = Page((folder / "report.html").read_text())
        assert not {"link", "img", "iframe", "object"} & set(page.tags)
        assert all(value.startswith("#") for value in page.values("href") + page.values("src"))

    def test_its_policy_allows_its_one_script_by_its_hash_and_no_other(self, folder):
        text = (folder / "report.html").read_text()
        script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert len(script) == text.count("<script") == 1
        policy = next(value for value in Page(text).values("content") if "script-src" in value)
        digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy

    def test_its_ids_are_unique_and_its_links_arrive(self, folder):
        page = Page((folder / "report.html").read_text())
        assert len(page.values("id")) == len(set(page.values("id")))
        assert {link[1:] for link in page.values("href")} <= set(page.values("id"))

    def test_it_says_verdict_facts_limits_and_answers(self, folder, metrics):
        text = Page((folder / "report.html").read_text()).text
        text = text.replace("\u00a0", " ").replace("\u2011", "-")
        for part in (sentence(metrics), "temperature 1", "What this does not show", "ppo answers 0", "question 57"):
            assert part in text

    def test_it_shows_twenty_samples_spread_over_the_prompts(self, folder):
        assert (folder / "report.html").read_text().count('<details class="box"') == 20

    def test_it_serves_dark_screens_phones_and_paper(self, folder):
        text = (folder / "report.html").read_text()
        for part in ("(prefers-color-scheme: dark)", 'name="viewport"', "@media print", "max-width: 36rem"):
            assert part in text

    def test_the_reward_model_as_judge_is_warned_of_on_page_and_in_text(self, tmp_path):
        write_report(tmp_path, measured(arms(), "reward_model"), PROMPTS, arms(), {}, {})
        for name in ("report.html", "report.md"):
            assert "trained on this very judge" in (tmp_path / name).read_text()


class TestWholeReport:
    """A comparison with every key, and one with the contract's alone."""

    def test_page_and_text_have_every_section(self, full):
        page = [re.sub("<.*?>", "", head) for head in re.findall(r"<h2.*?</h2>", full[0])]
        assert page == [
            "Read this with care", "Score against distance from SFT", "Results", "Cost", "Signs of reward hacking",
            "The reward model", "The judge", "Samples", "Learning curves", "How it was done", "What this does not show",
        ]  # fmt: skip
        assert re.findall(r"^## (.*)", full[1], re.MULTILINE) == [
            "Head to head", "Numbers of each arm", "Cost", "Score against distance from SFT", "Signs of reward hacking",
            "The reward model", "The judge", "How it was done", "What this does not show", "Samples",
        ]  # fmt: skip

    def test_page_and_text_say_the_same(self, full):
        text = Page(full[0]).text.replace("\u00a0", " ").replace("\u2011", "-")
        for part in (
            "about 2,140 prompts",
            "PPO ahead by 0.24 in true reward",
            "▲",
            "164,864",
            "good enough to learn",
        ):
            assert part in text
            assert part in full[1]

    def test_it_stays_moderate_in_size(self, full):
        assert len(full[0]) < 600_000

    def test_it_reads_well_to_a_screen_reader(self, full):
        page = Page(full[0])
        assert page.tags.count("h1") == page.tags.count("main") == 1
        assert page.tags.count("th") == len(page.values("scope"))
        assert full[0].count("<svg") == full[0].count('role="img" aria-label="') - 1  # the verdict's bar is no svg
        assert set(page.values("aria-labelledby")) <= set(page.values("id"))
        assert set(page.values("aria-controls")) <= set(page.values("id"))
        assert len(page.values("id")) == len(set(page.values("id")))

    def test_the_contract_s_keys_alone_make_a_report(self, tmp_path):
        write_report(tmp_path, least_metrics(), MANY, answering_arms(NAMES[:3]), {}, {})
        text = (tmp_path / "report.html").read_text()
        assert "PPO beat DPO" in text
        assert "Signs of reward hacking" not in text
        assert "PPO beat DPO" in (tmp_path / "report.md").read_text()

    @pytest.mark.parametrize("nothing", [None, "empty", "absent"])
    def test_all_that_the_contract_does_not_ask_for_may_be_null_empty_or_absent(self, nothing):
        found = full_metrics()
        parts = {"judge_facts": {}, "length_control": {}, "curves": {}, "panel": {}, "hacking": [], "reward_model": {}}
        for part, empty in parts.items():
            found[part] = empty if nothing == "empty" else None
            if nothing == "absent":
                del found[part]
        for key in set(found["arms"]["ppo"]) - set(least_metrics()["arms"]["ppo"]):
            for arm in found["arms"].values():
                arm[key] = 200 if key == "scored" else None
                if nothing == "absent":
                    del arm[key]
        page = report.html(found, MANY, answering_arms(), {}, {})
        assert "Signs of reward hacking" not in page
        assert sentence(found) in page.replace("\u00a0", " ").replace("\u2011", "-")
        assert "## Cost" in markdown(found, MANY, answering_arms(), {})

    @pytest.mark.parametrize("key", list(full_metrics()["arms"]["ppo"]))
    def test_any_number_of_an_arm_may_be_null(self, key):
        found = full_metrics()
        for arm in found["arms"].values():
            arm[key] = 200 if key == "scored" else None
        assert plain_text(found)
        assert numbers(found).rows
        assert markdown(found, [], [], {})


class TestBlindSamples:
    def order(self, sample: str) -> list[str]:
        return re.findall(r'class="name secret">(.*?)<', sample)

    def test_the_arms_go_by_letters_in_another_order_for_each_prompt(self, samples):
        assert all(re.findall(r'data-letter="(.)"', sample) == list("ABCDE") for sample in samples)
        assert all(sorted(self.order(sample)) == sorted(self.order(samples[0])) for sample in samples)
        assert len({tuple(self.order(sample)) for sample in samples}) > 10

    def test_the_order_is_the_same_each_time(self, samples):
        again = report.html(full_metrics(), MANY, answering_arms(), {}, {})
        assert all(sample in again for sample in samples[:-1])

    def test_what_names_an_arm_is_marked_to_be_hidden(self, samples):
        for sample in samples:
            shown = re.sub(r'<(span|dl) class="[^"]*secret">.*?</\1>', "", sample)
            assert not re.search("SFT|DPO|PPO|of n|proxy|best score", Page(f"<a{shown}").text.split("Picks made")[0])

    def test_a_vote_names_the_letters_of_ppo_and_dpo(self, samples):
        for sample in samples:
            letters = dict(zip(self.order(sample), "ABCDE", strict=True))
            options = dict(re.findall(r'value="(ppo|dpo)"> (.)</label>', sample))
            assert options == {"ppo": letters["PPO"], "dpo": letters["DPO"]}
            places = [sample.index(f"> {letter}</label>") for letter in sorted(options.values())]
            assert places == sorted(places)

    def test_a_vote_is_tied_to_the_two_answers_it_was_cast_on(self, samples):
        ppo, dpo = answering_arms()[2].answers[0].text, answering_arms()[1].answers[0].text
        assert f'data-prompt="1" data-answers="{votes_key(ppo, dpo)}"' in samples[0]

    def test_without_ppo_or_dpo_there_is_nothing_to_vote_on(self):
        page = report.html(full_metrics(), MANY, answering_arms(NAMES[:2]), {}, {})
        assert "Which is better?" not in page
        assert "Reveal the arms" in page


class TestHostileText:
    def test_it_is_shown_and_never_obeyed(self, attacked):
        page = Page(attacked[0])
        assert page.tags.count("script") == 1
        assert "img" not in page.tags
        assert page.tags.count("b") == 3  # the page's own
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
        assert page.tags.count("svg") == 3
        assert "PPO beat DPO" in page.text
        assert not {"script", "style", "link"} & set(page.tags)
        assert all("color:#" not in style for style in page.values("style"))

    def test_a_notebook_escapes_what_it_shows(self, metrics, tmp_path):
        metrics["arms"]["<b>"] = metrics["arms"].pop("sft")
        assert "b" not in Page(Comparison(metrics, tmp_path)._repr_html_()).tags

    def test_a_notebook_shows_an_old_comparison_and_a_full_one(self, tmp_path):
        for found in (least_metrics(), full_metrics()):
            assert sentence(found) in Page(Comparison(found, tmp_path)._repr_html_()).text

    @pytest.mark.parametrize(
        ("content", "message"), [(None, "no comparison here"), ("{", "cannot be read"), ("[]", "not the metrics")]
    )
    def test_a_folder_without_a_whole_comparison_is_refused(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(RunError, match=message):
            Comparison.load(tmp_path)

    @pytest.mark.parametrize(
        ("place", "wrong", "message"),
        [
            ("prompts", "200", "prompts is '200', where a number is wanted"),
            ("arms.ppo.kl_nats.mean", "far", r"arms\.ppo\.kl_nats\.mean is 'far', where a number is wanted"),
            ("arms.ppo.kl_nats", "far", r"arms\.ppo\.kl_nats is 'far'"),
            ("arms.ppo.train_seconds", "12 s", r"arms\.ppo\.train_seconds is '12 s'"),
            ("pairs.ppo_vs_dpo.win_rate", "0.61", r"pairs\.ppo_vs_dpo\.win_rate is '0\.61'"),
            ("pairs.ppo_vs_dpo.ci95", [0.5], r"pairs\.ppo_vs_dpo\.ci95 is \[0\.5\], where an interval's two ends"),
            ("curves.ppo", "up", r"curves\.ppo is 'up'"),
            ("judge_facts.consistency", "high", r"judge_facts\.consistency is 'high'"),
            ("judge", ["truth"], "judge is .*, where a name is wanted"),
            ("arms.ppo", 3, "arms does not hold one object"),
            ("pairs", [], "pairs does not hold one object"),
        ],
    )
    def test_a_text_in_the_place_of_a_number_is_refused_with_its_place(self, tmp_path, place, wrong, message):
        metrics = full_metrics()
        *above, last = place.split(".")
        inner = metrics
        for key in above:
            inner = inner[key]
        inner[last] = wrong
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(RunError, match=rf"metrics\.json: damaged, or changed by hand: {message}.*compare again"):
            Comparison.load(tmp_path)

    def test_an_old_comparison_and_a_full_one_are_read(self, tmp_path):
        for found in (least_metrics(), full_metrics()):
            (tmp_path / "metrics.json").write_text(json.dumps(found))
            assert Comparison.load(tmp_path).metrics == found

    def test_a_text_in_the_place_of_an_answers_score_is_refused_where_runs_are_put_side_by_side(self, tmp_path):
        for name, score in (("a", 0.5), ("b", "lots")):
            folder = tmp_path / name / "compare"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(full_metrics()))
            (folder / "stage.json").write_text('{"inputs": {}, "seconds": 1, "peak_bytes": null, "metrics": {}}')
            row = {"prompt": [], "arms": {"ppo": {"text": "x", "true_reward": score}}}
            (folder / "samples.jsonl").write_text(json.dumps(row))
        with pytest.raises(RunError, match=r"samples\.jsonl: cannot be read .*true_reward is 'lots', where a number"):
            compare_runs([tmp_path / "a", tmp_path / "b"])


def test_printing_to_a_pipe_has_no_colours(metrics):
    out = StringIO()
    print_comparison(metrics, Console(file=out))
    assert "\x1b" not in out.getvalue()
