"""The report in a real browser: blind until revealed, searchable, votes that come back out, no page too wide."""

import json
import time

import pytest
from browser import CHROMIUM, Browser
from comparison import NAMES, PROMPTS, answering_arms, full_metrics, least_metrics

from kit.compare.judges.votes import judge_by_votes
from kit.compare.report.page import write_report
from kit.compare.result import Answer, Arm

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install one: apt install chromium")

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \u202egnp "
    + 400 * "W"
)
CURVES = {"ppo": [{"episode": 32 * i, "objective/scores": i / 9, "objective/kl": i / 5} for i in range(40)]}
WIDTHS = (360, 390, 800, 1280)
CONTRAST = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, :disabled, .unseen, .skip") || !element.getClientRects().length) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report in which every key has a value."""
    out = tmp_path_factory.mktemp("full")
    write_report(out, full_metrics(), PROMPTS, answering_arms(), CURVES, {"Base model": "demo"})
    return out / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report in which every text that comes from elsewhere is an attack, and too long a word."""
    out = tmp_path_factory.mktemp("hostile")
    arms = [Arm(name, [Answer(HOSTILE, 1.0, 1.0, 1.0, 9, True)] * 3) for name in NAMES[:3]]
    metrics = full_metrics()
    metrics["judge"] = HOSTILE
    metrics["judge_facts"]["description"] = metrics["length_control"]["withheld"] = HOSTILE
    metrics["hacking"][1]["text"] = metrics["panel"]["ppo"]["last"]["same_opening"]["opening"] = HOSTILE
    metrics["pairs"]["ppo_vs_dpo"]["length_controlled"] = None
    write_report(out, metrics, [[{"role": HOSTILE, "content": HOSTILE}]] * 3, arms, CURVES, {HOSTILE: HOSTILE})
    return out / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One browser for all tests; each opens its page anew."""
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def opened(chromium, page):
    """The full report, just opened."""
    chromium.errors.clear()
    chromium.open(page)
    yield chromium
    assert chromium.errors == []


def shown(chromium, selector: str) -> list[str]:
    """The texts of the elements that a reader sees."""
    find = f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.checkVisibility())"
    return chromium.run(f"{find}.map((e) => e.textContent)")


def click(chromium, selector: str, at: int = 0) -> None:
    chromium.run(f"document.querySelectorAll({json.dumps(selector)})[{at}].click()")


class TestBlind:
    def test_no_name_and_no_score_is_seen_before_it_is_asked_for(self, opened):
        assert opened.run("document.querySelectorAll('.secret').length") > 100
        assert shown(opened, ".secret") == []
        assert len(shown(opened, ".answer .letter")) == 4 * len(NAMES)  # four samples are open

    def test_nor_do_colours_give_an_arm_away(self, opened):
        colours = (
            "[...new Set([...document.querySelectorAll('.answer')].map((e) => getComputedStyle(e).borderTopColor))]"
        )
        assert len(opened.run(colours)) == 1
        click(opened, ".reveal")
        assert len(opened.run(colours)) > 1

    def test_reveal_shows_one_sample_and_says_so_aloud(self, opened):
        click(opened, ".reveal")
        assert len(shown(opened, ".answer .name")) == len(NAMES)
        assert opened.run("document.querySelector('.reveal').ariaExpanded") == "true"
        told = opened.run("document.querySelector('#status').textContent")
        assert told.startswith("Prompt 1: A is ")
        assert "C is " in told
        click(opened, ".reveal")
        assert shown(opened, ".answer .name") == []

    def test_reveal_all_shows_every_sample(self, opened):
        click(opened, "#reveal-all")
        opened.run("document.querySelectorAll('.box').forEach((box) => { box.open = true; })")
        assert len(shown(opened, ".answer .name")) == 20 * len(NAMES)
        assert opened.run("document.querySelector('#reveal-all').ariaExpanded") == "true"

    def test_the_keyboard_does_it_too(self, opened):
        opened.run("document.querySelector('#reveal-all').focus()")
        for key, code, text in (("Enter", 13, "\r"), (" ", 32, " ")):
            before = len(shown(opened, ".answer .name"))
            opened.press(key, code, text)
            assert (before == 0) == (len(shown(opened, ".answer .name")) > 0)

    def test_without_script_all_is_there_and_nothing_is_offered_that_does_not_work(self, chromium, page):
        chromium.open(page, script=False)
        assert len(shown(chromium, ".answer .name")) == 4 * len(NAMES)
        assert shown(chromium, "button, input, .status") == []

    def test_paper_shows_every_sample_with_its_names(self, opened):
        opened.call("Emulation.setEmulatedMedia", media="print")
        assert len(shown(opened, ".answer .name")) == 20 * len(NAMES)
        assert shown(opened, "button, input") == []


class TestSearch:
    def search(self, chromium, text: str) -> str:
        chromium.run("document.querySelector('#search').focus(); document.querySelector('#search').select()")
        chromium.type(text) if text else chromium.press("Backspace", 8)
        return chromium.run("document.querySelector('#status').textContent")

    def test_it_filters_as_one_types_and_says_how_many_are_left(self, opened):
        assert self.search(opened, "BED 10 there") == "1 of 20 samples match."
        assert shown(opened, ".box summary .n") == ["11"]
        assert len(shown(opened, ".box[open] .answer .text")) == len(NAMES)
        assert opened.run("document.querySelector('#status').getAttribute('aria-live')") == "polite"

    def test_what_is_not_there_leaves_none(self, opened):
        assert self.search(opened, "zebra") == "0 of 20 samples match."
        assert shown(opened, ".box") == []

    def test_an_arm_s_name_finds_nothing_while_it_is_hidden(self, opened):
        assert self.search(opened, "ppo") == "0 of 20 samples match."

    def test_clearing_it_brings_all_back_as_they_were(self, opened):
        self.search(opened, "bed 10 ")
        assert self.search(opened, "") == "All 20 samples."
        assert len(shown(opened, ".box")) == 20
        assert opened.run("document.querySelectorAll('.box[open]').length") == 4


class TestVotes:
    def vote(self, chromium, sample: int, winner: str) -> None:
        click(chromium, f".box:nth-of-type({sample}) .vote input[value={winner}]")

    def download(self, chromium) -> list[dict]:
        file = chromium.downloads / "votes.jsonl"
        file.unlink(missing_ok=True)
        click(chromium, "#download")
        end = time.monotonic() + 20
        while not (file.exists() and file.read_text().endswith("\n")):
            assert time.monotonic() < end, "no votes came"
            chromium.run("0")
            time.sleep(0.02)
        return [json.loads(line) for line in file.read_text().splitlines()]

    def test_picks_come_back_as_votes_on_the_very_answers(self, opened):
        assert opened.run("document.querySelector('#download').disabled") is True
        for sample, winner in ((1, "ppo"), (2, "tie"), (4, "dpo"), (2, "dpo")):
            self.vote(opened, sample, winner)
        votes = self.download(opened)
        assert [(vote["prompt"], vote["winner"]) for vote in votes] == [(1, "ppo"), (11, "dpo"), (31, "dpo")]
        assert all((vote["a"], vote["b"]) == ("ppo", "dpo") for vote in votes)

    def test_the_file_of_votes_is_one_that_judges_a_comparison(self, opened):
        for sample, winner in ((1, "ppo"), (2, "tie"), (4, "dpo")):
            self.vote(opened, sample, winner)
        self.download(opened)
        answers = {arm.name: [answer.text for answer in arm.answers] for arm in answering_arms()}
        found = judge_by_votes(opened.downloads / "votes.jsonl", PROMPTS, answers, [("ppo", "dpo")])
        outcomes = found.outcomes["ppo", "dpo"]
        assert [outcomes[at] for at in (0, 10, 20, 30)] == [1.0, 0.5, None, 0.0]
        assert (found.facts["votes"], found.facts["stale"], found.facts["unchecked"]) == (3, 0, 0)

    def test_a_revealed_sample_is_no_longer_voted_on_but_keeps_its_blind_vote(self, opened):
        self.vote(opened, 1, "ppo")
        for at in (0, 1, 1):
            click(opened, ".reveal", at)
        self.vote(opened, 1, "dpo")
        self.vote(opened, 2, "dpo")
        assert [(vote["prompt"], vote["winner"]) for vote in self.download(opened)] == [(1, "ppo")]

    def test_revealing_all_tells_what_one_picked(self, opened):
        self.vote(opened, 1, "ppo")
        self.vote(opened, 3, "tie")
        click(opened, "#reveal-all")
        assert "PPO 1, DPO 0, no difference 1" in opened.run("document.querySelector('#status').textContent")


class TestLayout:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("which", ["page", "hostile"])
    def test_no_page_is_wider_than_its_screen(self, chromium, request, which, width):
        chromium.open(request.getfixturevalue(which), width=width)
        chromium.run("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
        chromium.run("document.querySelector('#reveal-all').click()")
        assert chromium.run("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_from_its_ground(self, chromium, page, dark):
        chromium.open(page, dark=dark)
        chromium.run("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
        chromium.run("document.querySelector('#reveal-all').click()")
        assert chromium.run(CONTRAST) == []

    def test_paper_is_white_on_a_dark_screen_too(self, chromium, page):
        chromium.open(page, dark=True)
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        chromium.call("Emulation.setEmulatedMedia", media="print", features=features)
        assert chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert chromium.run(CONTRAST) == []

    def test_an_old_comparison_opens_without_an_error(self, chromium, tmp_path):
        write_report(tmp_path, least_metrics(), PROMPTS, answering_arms(NAMES[:3]), {}, {})
        chromium.errors.clear()
        chromium.open(tmp_path / "report.html")
        assert shown(chromium, "h1")[0].startswith("PPO beat DPO")
        assert chromium.errors == []


class TestHostileText:
    def test_no_foreign_script_runs(self, chromium, hostile):
        chromium.open(hostile)
        click(chromium, "#reveal-all")
        assert chromium.run("document.title") == "Which policy answered better?"
        assert chromium.run("document.scripts.length") == 1

    def test_even_a_script_that_got_into_the_page_is_refused(self, chromium, page, tmp_path):
        broken = tmp_path / "report.html"
        broken.write_text(page.read_text().replace("</main>", "<script>document.title='owned'</script></main>"))
        chromium.open(broken)
        assert chromium.run("document.title") == "Which policy answered better?"
