"""The panel flags what changed and nothing else; the words name a hack only where the flags allow it."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from kit.compare.hacking.panel import MEASURES, build_panel
from kit.compare.hacking.symptoms import hacks

WORDS = (
    "cows", "pigs", "goats", "hens", "bees", "moths", "wasps", "apples", "pears", "plums", "grapes", "and", "or",
    "with", "three", "of", "them", "here", "is", "say",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    text: str
    proxy_reward: float | None
    judge_score: float | None
    kl_nats: float
    entropy_nats: float | None
    response_tokens: int
    ended: bool


def arm(n=100, seed=0, **same):
    """n random answers; `same` fields are set in all of them."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(n):
        text = " ".join(rng.choice(WORDS, size=rng.integers(5, 20)))
        answers.append(
            Said(
                text=text,
                proxy_reward=rng.normal(),
                judge_score=rng.normal(),
                kl_nats=rng.exponential(),
                entropy_nats=rng.gamma(4) / 4,
                response_tokens=len(text.split()),
                ended=bool(rng.random() < 0.9),
            )
        )
    return [replace(answer, **same) for answer in answers]


def changed(answers, **changes):
    """The answers with some fields computed anew from each."""
    return [replace(a, **{name: change(a) for name, change in changes.items()}) for a in answers]


def panel_of(answers, start=None):
    return build_panel({"sft": {"last": start or arm(len(answers))}, "ppo": {"last": answers}})


def flags(answers, start=None):
    return {
        name: cell["flag"] for name, cell in panel_of(answers, start)["ppo"]["last"].items() if cell and cell["flag"]
    }


def names(answers, start=None):
    return [hack["text"] for hack in hacks(panel_of(answers, start))]


class TestThePanel:
    def test_has_every_measure_of_every_checkpoint_and_is_json(self):
        panel = build_panel({"sft": {"last": arm()}, "dpo": {"last": arm(seed=1), "step 20": arm(seed=2)}})
        json.dumps(panel, allow_nan=False)
        assert list(panel["dpo"]) == ["last", "step 20"] and all(
            list(cells) == list(MEASURES) for arms in panel.values() for cells in arms.values()
        )
        cell = panel["dpo"]["step 20"]["response_tokens"]
        assert set(cell) == {"mean", "ci95", "vs_sft", "flag"}
        assert set(cell["vs_sft"]) == {"mean", "ci95", "ci95_joint"}

    def test_sft_is_compared_with_nobody(self):
        panel = panel_of(arm(seed=1))
        assert all(cell["vs_sft"] is None and cell["flag"] is None for cell in panel["sft"]["last"].values())

    def test_the_same_answers_differ_by_exactly_nothing(self):
        panel = panel_of(arm())
        tested = [cell["vs_sft"] for name, cell in panel["ppo"]["last"].items() if name != "kl_nats"]
        assert all(d["mean"] == 0 and d["ci95_joint"] == [0, 0] for d in tested) and not hacks(panel)

    def test_does_not_change_when_the_prompts_change_places(self):
        a, b = arm(), changed(arm(seed=1), text=lambda x: "here is " + x.text)
        order = np.random.default_rng(5).permutation(100)
        one, other = panel_of(b, a), panel_of([b[i] for i in order], [a[i] for i in order])
        for name, cell in one["ppo"]["last"].items():
            moved = other["ppo"]["last"][name]
            assert cell["mean"] == pytest.approx(moved["mean"]) and cell["flag"] == moved["flag"]
            assert cell["vs_sft"]["mean"] == pytest.approx(moved["vs_sft"]["mean"], abs=1e-9)

    def test_the_difference_is_paired_by_prompt(self):
        rng = np.random.default_rng(0)
        start = [replace(a, response_tokens=int(rng.integers(1, 1000))) for a in arm()]
        longer = changed(start, response_tokens=lambda a: a.response_tokens + 2 + int(a.ended))
        assert flags(longer, start) == {"response_tokens": "up"}

    def test_what_nobody_knows_is_null(self):
        unknown = {"proxy_reward": None, "judge_score": None, "entropy_nats": None}
        cells = panel_of(arm(seed=1, **unknown), arm(**unknown))["ppo"]["last"]
        assert [name for name, cell in cells.items() if cell is None] == [
            "entropy_nats", "proxy_reward", "judge_score", "proxy_less_judge",
        ]  # fmt: skip

    def test_a_judge_that_is_the_proxy_leaves_no_gap_and_rounding_is_no_change(self):
        def same(a):
            return 3 * a.proxy_reward + 1

        start, now = (changed(arm(seed=s), judge_score=same) for s in (0, 1))
        gap = panel_of(now, start)["ppo"]["last"]["proxy_less_judge"]["vs_sft"]
        assert gap == {"mean": 0, "ci95": [0, 0], "ci95_joint": [0, 0]}
        assert flags(now, start) == {}

    def test_far_from_sft_is_told_but_never_flagged(self):
        cell = panel_of(arm(seed=1, kl_nats=50.0), arm(kl_nats=0.0))["ppo"]["last"]["kl_nats"]
        assert cell["mean"] == 50 and cell["vs_sft"]["mean"] == 50 and cell["flag"] is None

    def test_few_prompts_allow_no_flag(self):
        assert flags(arm(9, 1, ended=False), arm(9, ended=True)) == {}

    @pytest.mark.parametrize("arms", [{"ppo": {"last": arm(3)}}, {"sft": {"step 1": arm(3)}}])
    def test_without_sfts_last_answers_is_refused(self, arms):
        with pytest.raises(ValueError, match="compares with sft's 'last'"):
            build_panel(arms)

    def test_answers_to_other_prompts_are_refused(self):
        with pytest.raises(ValueError, match="ppo 'last' has 5 answers, sft has 6"):
            build_panel({"sft": {"last": arm(6)}, "ppo": {"last": arm(5)}})


class TestFlags:
    def test_where_nothing_changed_5_panels_of_100_at_most_have_any(self):
        some = 0
        for seed in range(60):
            panel = build_panel(
                {"sft": {"last": arm(40, 3 * seed)}, "ppo": {"last": arm(40, 3 * seed + 1), "x": arm(40, 3 * seed + 2)}}
            )
            some += any(cell["flag"] for cells in panel["ppo"].values() for cell in cells.values())
        assert some <= 7  # 3 expected

    @pytest.mark.parametrize(
        "measure, flag, change",
        [
            ("response_tokens", "up", {"response_tokens": lambda a: a.response_tokens + 10}),
            ("truncated", "up", {"ended": lambda a: False}),
            ("empty", "up", {"text": lambda a: ""}),
            ("repeated_4grams", "up", {"text": lambda a: f"{a.text} {a.text}"}),
            ("distinct_2", "down", {"text": lambda a: f"{a.text} {a.text}"}),
            ("self_similarity", "up", {"text": lambda a: "three cows and some of the pigs " + a.text}),
            ("same_opening", "up", {"text": lambda a: "here is three " + a.text}),
            ("stock_openers", "up", {"text": lambda a: "Great question! " + a.text}),
            ("refusals", "up", {"text": lambda a: a.text + " I'm sorry, but I cannot"}),
            ("entropy_nats", "down", {"entropy_nats": lambda a: a.entropy_nats / 4}),
            ("proxy_reward", "up", {"proxy_reward": lambda a: a.proxy_reward + 2}),
            ("judge_score", "down", {"judge_score": lambda a: a.judge_score - 2}),
            ("proxy_less_judge", "up", {"proxy_reward": lambda a: a.proxy_reward + 2}),
        ],
    )
    def test_what_was_changed_is_flagged(self, measure, flag, change):
        assert flags(changed(arm(seed=1), **change))[measure] == flag

    def test_the_gap_is_in_standard_deviations_of_sfts_scores(self):
        start = arm()
        spread = np.std([a.proxy_reward for a in start], ddof=1)
        found = panel_of(changed(start, proxy_reward=lambda a: a.proxy_reward + 3 * spread), start)
        assert found["ppo"]["last"]["proxy_less_judge"]["vs_sft"]["mean"] == pytest.approx(3)

    def test_self_similarity_varies_as_much_as_its_interval_says(self):
        means, widths = [], []
        for seed in range(40):
            some = [replace(a, text="three cows and some pigs") if a.entropy_nats < 0.8 else a for a in arm(60, seed)]
            cell = build_panel({"sft": {"last": some}})["sft"]["last"]["self_similarity"]
            means.append(cell["mean"])
            widths.append(cell["ci95"][1] - cell["ci95"][0])
        assert np.mean(widths) == pytest.approx(3.92 * np.std(means), rel=0.35)


class TestHacks:
    def test_proxy_up_and_judge_down_is_reward_hacking(self):
        found = names(
            changed(arm(seed=1), proxy_reward=lambda a: a.proxy_reward + 2, judge_score=lambda a: a.judge_score - 2)
        )
        assert len(found) == 1 and found[0].startswith("reward hacking: proxy up (+")
        assert "the judge's score fell (-" in found[0]

    def test_proxy_and_judge_up_is_none(self):
        better = {"proxy_reward": lambda a: a.proxy_reward + 2, "judge_score": lambda a: a.judge_score + 2}
        assert names(changed(arm(seed=1), response_tokens=lambda a: a.response_tokens + 30, **better)) == []

    def test_proxy_and_length_up_with_the_judge_unmoved_is_a_length_hack(self):
        longer = {"proxy_reward": lambda a: a.proxy_reward + 2, "response_tokens": lambda a: a.response_tokens + 30}
        (found,) = names(changed(arm(seed=1), **longer))
        assert found.startswith("length hack") and "not shown to have changed" in found

    def test_proxy_up_alone_has_nothing_to_show_for_it(self):
        (found,) = names(changed(arm(seed=1), proxy_reward=lambda a: a.proxy_reward + 2))
        assert "nothing to show for it" in found

    def test_proxy_up_with_a_judge_that_gives_no_scores_says_nothing(self):
        assert names(arm(seed=1, proxy_reward=5.0, judge_score=None), arm(judge_score=None)) == []

    @pytest.mark.parametrize(
        "words, change",
        [
            ("ends less often", {"ended": lambda a: False}),
            ("repeats itself", {"text": lambda a: f"{a.text} {a.text}"}),
            ("opens the same way", {"text": lambda a: "here is three " + a.text}),
            ("opens with stock phrases", {"text": lambda a: "Great question! " + a.text}),
            ("refuses more often", {"text": lambda a: a.text + " I'm sorry, but I cannot"}),
            ("says nothing more often", {"text": lambda a: ""}),
            ("says the same to every prompt", {"text": lambda a: "cows"}),
            ("entropy collapsed", {"entropy_nats": lambda a: a.entropy_nats / 10}),
        ],
    )
    def test_plain_words_for_what_happened(self, words, change):
        assert any(text.startswith(words) for text in names(changed(arm(seed=1), **change)))

    def test_the_opening_is_quoted(self):
        text = next(t for t in names(changed(arm(seed=1), text=lambda a: "Gladly! Three " + a.text)) if "same way" in t)
        assert "“gladly ! three”" in text and "100.0 %" in text

    def test_a_change_too_small_to_matter_is_flagged_and_not_named(self):
        start = arm(400, ended=True)
        now = [replace(a, ended=i % 30 != 0) for i, a in enumerate(start)]
        assert flags(now, start) == {"truncated": "up"} and names(now, start) == []

    def test_half_the_entropy_lost_is_no_collapse_unless_the_interval_says_so(self):
        halved = changed(arm(seed=1), entropy_nats=lambda a: a.entropy_nats / 2)
        assert flags(halved) == {"entropy_nats": "down"} and names(halved) == []

    def test_sft_itself_is_never_named_and_others_by_arm_and_checkpoint(self):
        bad = changed(arm(seed=1), ended=lambda a: False)
        found = hacks(build_panel({"sft": {"last": arm()}, "dpo": {"last": arm(seed=2)}, "ppo": {"step 8": bad}}))
        assert [(hack["arm"], hack["checkpoint"]) for hack in found] == [("ppo", "step 8")]
