"""The page on which people rank, in a real browser: by mouse, touch and keys, through reloads, lost connections and
restarts, in two tabs, on a phone, with hostile and huge texts."""

import hashlib
import json
import re
import sqlite3
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from label_page import ALT, CTRL, SHIFT, items, page_of, said
from test_compare_browser import CONTRAST

from kit.compare.report.page import house_style
from kit.compare.report.text import visible
from kit.labelling import serve
from kit.labels.desk import Refused
from kit.labels.project import Answer, Item

pytest.importorskip("uvicorn", reason="the server needs kit[label]")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install one: apt install chromium")

PAGE = Path(__file__).resolve().parents[1] / "kit" / "labelling" / "page"
WIDTHS = (360, 390, 800, 1280)
PHONE = {"width": 360, "height": 640}
HOSTILE = (
    "<img src=x onerror=\"alert(1)\"><script>alert(1)</script><a href=\"javascript:alert(1)\">x</a> &lt;b&gt; "
    "\u202egnp.exe \u2066isolated \u200bzero\x00\x07\x1b[31m \ud800 lone</div></li> {{7*7}} ${alert(1)} " + 300 * "W"
)  # fmt: skip
STORED = HOSTILE.replace("\ud800", "?")  # no text file can hold a lone surrogate


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests; each opens a server of its own."""
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def desk(browser, tmp_path):
    """A page with three items of four answers each, opened by its link."""
    with page_of(browser, tmp_path, items()) as page:
        page.join()
        yield page
        assert browser.errors == []


@pytest.fixture
def looks(browser, tmp_path):
    """A page with a conversation and long answers."""
    long = "A sentence of some words. " * 200
    prompt = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi! " + 40 * "Longer. "},
        {"role": "assistant", "content": long},
        {"role": "user", "content": "W" * 120},
    ]
    answers = tuple(Answer(f"a{k}", (long, "Short.", "W" * 500)[k % 3]) for k in range(5))
    with page_of(browser, tmp_path, [Item(f"p{n}", prompt, answers) for n in range(3)]) as page:
        page.join()
        yield page


class TestRanking:
    def drag(self, page, letter: str, to: float) -> None:
        """Drag an answer by its handle with the mouse until the pointer is at the height `to`, in ten steps."""
        x, y = page.middle(f"{page.answer(letter)} .handle")
        page.mouse("mousePressed", x, y)
        for step in range(1, 11):
            page.mouse("mouseMoved", x, y + (to - y) * step / 10)
        page.mouse("mouseReleased", x, to)

    def test_dragging_with_the_mouse_puts_an_answer_where_it_is_dropped(self, desk):
        self.drag(desk, "D", desk.middle(f"{desk.answer('A')} .handle")[1] - 20)
        assert desk.letters() == "DABC"
        assert desk.places() == {"D": "1", "A": "2", "B": "3", "C": "4"}
        self.drag(desk, "D", desk.middle(f"{desk.answer('B')} .handle")[1] + 30)
        assert desk.letters() == "ABDC"
        desk.send()
        assert said(desk.stored(1)[0]) == {"A": 1, "B": 2, "C": 4, "D": 3}

    def test_escape_and_a_drop_in_place_change_nothing(self, desk):
        x, y = desk.middle(f"{desk.answer('A')} .handle")
        desk.mouse("mousePressed", x, y)
        for down in (40, 120, 260):
            desk.mouse("mouseMoved", x, y + down)
        assert desk.places()["A"] != "1"
        desk.press("Escape")
        desk.mouse("mouseReleased", x, y + 260)
        self.drag(desk, "B", desk.middle(f"{desk.answer('B')} .handle")[1] + 8)
        assert (desk.letters(), set(desk.places().values())) == ("ABCD", {"–"})

    def test_a_finger_drags_by_the_handle_and_scrolls_by_the_text(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(answers=5, text="{name} " + 60 * "of many words ")) as page:
            browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
            page.join(**PHONE)
            x, y = page.middle("#answers > li:nth-child(1) .text")
            page.touch("touchStart", (x, 500))
            for up in range(20, 400, 20):
                page.touch("touchMove", (x, 500 - up))
            page.touch("touchEnd")
            page.wait("scrollY > 200")
            page.still()
            assert page.letters() == "ABCDE"
            x, y = page.middle(f"{page.answer('B')} .handle")
            page.touch("touchStart", (x, y))
            for up in range(10, 300, 15):
                page.touch("touchMove", (x, y - up))
            page.touch("touchEnd")
            assert page.letters() == "BACDE"
            browser.call("Emulation.setTouchEmulationEnabled", enabled=False)

    def test_a_long_list_scrolls_while_an_answer_is_dragged(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(answers=9, text="{name} " + 60 * "of many words ")) as page:
            page.join(width=800, height=420)
            x, y = page.middle(f"{page.answer('A')} .handle")
            page.mouse("mousePressed", x, y)
            page.mouse("mouseMoved", x, y + 30)
            page.mouse("mouseMoved", x, 415)
            page.wait("document.querySelector('.dragged .place').textContent === '9'")
            page.mouse("mouseReleased", x, 415)
            assert page.letters() == "BCDEFGHIA"

    def test_buttons_move_and_tie(self, desk):
        desk.click(f"{desk.answer('C')} .up")
        desk.click(f"{desk.answer('A')} .down")
        assert desk.letters() == "CABD"
        desk.click(f"{desk.answer('B')} .tie")
        assert desk.places() == {"C": "1", "A": "2", "B": "2", "D": "3"}
        desk.click(f"{desk.answer('C')} .down")  # past the whole tie
        assert desk.places() == {"A": "1", "B": "1", "C": "2", "D": "3"}
        desk.click(f"{desk.answer('B')} .tie")
        assert desk.letters() == "ABCD"
        desk.click(f"{desk.answer('D')} .tie")
        desk.send()
        assert said(desk.stored(1)[0]) == {"A": 1, "B": 2, "C": 3, "D": 3}

    def test_keys_alone_lead_from_the_link_to_the_end(self, browser, tmp_path):
        with page_of(browser, tmp_path, items()) as page:
            page.join(guidelines=True)
            assert page.run("document.querySelector('#guidelines').open")
            page.press("Enter")  # Start
            page.wait("!document.querySelector('#guidelines').open")
            page.settled()
            for key, modifiers in [
                ("ArrowDown", 0),
                ("3", 0),
                ("ArrowUp", 0),
                ("ArrowUp", ALT),
                ("=", 0),
                ("Enter", 0),
            ]:
                page.press(key, modifiers)  # A to place 3; C, above it, first; no answer above that to tie it with
            page.settled()
            for key, modifiers in [("ArrowDown", 0), ("ArrowDown", 0), ("t", 0), ("ArrowDown", SHIFT), ("Enter", 0)]:
                page.press(key, modifiers)  # B tied with A, then one down
            page.settled()
            page.press("n")
            page.press("c")
            page.browser.type("all of them\nare wrong")
            page.press("Enter", CTRL)
            page.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
            first, second, third = page.stored(3)
            assert said(first) == {"C": 1, "B": 2, "A": 3, "D": 4}
            assert said(second) == {"A": 1, "B": 2, "C": 3, "D": 4}
            assert (set(said(third).values()), third["none_acceptable"]) == ({1}, True)
            assert third["comment"] == "all of them\nare wrong"
            assert browser.errors == []

    def test_a_phone_is_told_how_without_keys_and_in_place(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1)) as page:
            browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
            page.join(**PHONE)
            assert page.text("#answers-title") == "Rank these 4 answers, best on top"
            assert "tie equal ones" in page.text("#how") and not page.shown("#how kbd")
            top = "document.querySelector('#answers').getBoundingClientRect().top + scrollY"
            before = page.run(top)
            page.click(f"{page.answer('B')} .up")
            assert page.run(top) == before  # nothing shifts under the finger
            browser.call("Emulation.setTouchEmulationEnabled", enabled=False)

    def test_what_was_skipped_can_be_ranked_as_it_stands(self, desk):
        desk.press("s")
        desk.press("ArrowDown")
        desk.press("Enter")
        desk.stored(1)
        desk.click("#previous")
        desk.wait("!document.querySelector('#looking').hidden")
        desk.settled()
        assert desk.text("#send") == "This order is right"
        desk.click("#send")
        assert desk.text("#send") == "Send the change"
        desk.settled()
        desk.click("#send")
        skipped, ranked = desk.stored(2)
        assert (ranked["supersedes"], said(ranked)["D"]) == (skipped["id"], 4)

    def test_a_skip_has_a_reason_and_words(self, desk):
        desk.press("s")
        desk.press("Enter")
        assert desk.shown("#reason-missing")
        desk.press("ArrowDown")
        desk.press("ArrowDown")
        desk.press("Tab")
        desk.browser.type("it is Finnish")
        desk.press("Enter")
        row = desk.stored(1)[0]
        assert (row["skip"], row["ranks"]) == ("Not in a language that I read: it is Finnish", None)
        assert desk.text("#turns") != ""

    def test_answers_that_nobody_touched_are_not_sent_by_accident(self, desk):
        assert (desk.text("#send"), set(desk.places().values())) == ("This order is right", {"–"})
        desk.hold_enter(20)
        desk.settled()
        desk.hold_enter(20, begun=True)
        assert (desk.text("#send"), desk.rows()) == ("Send", [])
        desk.press("Enter")
        assert said(desk.stored(1)[0]) == {"A": 1, "B": 2, "C": 3, "D": 4}

    def test_none_on_untouched_answers_ties_them_and_takes_it_back(self, desk):
        desk.press("n")
        assert set(desk.places().values()) == {"1"}
        desk.press("n")
        assert (set(desk.places().values()), desk.text("#send")) == ({"–"}, "This order is right")

    def test_two_answers_are_chosen_by_arrows_and_by_clicks(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(4, 2), kind="ab") as page:
            page.join()
            page.press("Enter")
            assert page.rows() == []  # nothing is chosen
            for key in ("ArrowRight", "ArrowLeft", "="):
                page.press(key)
                page.press("Enter")
            page.settled()
            page.press("ArrowLeft")
            page.click("#answers > li:nth-child(2) .text")
            page.click("#send")
            rows = page.stored(4)
            assert [list(said(row).values()) for row in rows] == [[2, 1], [1, 2], [1, 1], [2, 1]]
            assert browser.errors == []

    def test_arrows_go_through_the_choices_where_one_has_come_to_them_by_tab(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1, 2), kind="ab") as page:
            page.join()
            page.run("document.querySelector('#choice input').focus()")
            for key, value in ((" ", "0"), ("ArrowRight", "tie"), ("ArrowRight", "1"), ("ArrowLeft", "tie")):
                page.press(key)
                checked = page.run("document.querySelector('#choice :checked').value")
                assert (checked, page.run("document.activeElement.value")) == (value, value)
            page.press("Enter")
            assert page.stored(1)[0]["ranks"] == [1, 1]

    def test_single_keys_can_be_switched_off(self, desk):
        desk.press("?")
        desk.click("#single-keys")
        desk.press("Escape")
        desk.press("s")
        assert not desk.run("document.querySelector('#skipping').open")
        desk.press("ArrowDown", ALT)
        desk.press("ArrowDown", ALT)
        assert desk.letters() == "BACD"
        desk.run("localStorage.removeItem('kit-label:single-keys')")


class TestNothingIsLost:
    def test_a_reload_in_the_middle_keeps_the_draft(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.click(f"{desk.answer('D')} .tie")
        desk.press("c")
        desk.browser.type("half a thought")
        key = "Object.keys(localStorage).find((key) => key.includes(':draft:'))"
        before = desk.run(f"JSON.parse(localStorage[{key}])")
        desk.open()
        assert (desk.letters(), desk.places()["D"]) == ("BACD", "3")
        assert desk.run("document.querySelector('#comment').value") == "half a thought"
        desk.send()
        row = desk.stored(1)[0]
        assert (row["id"], row["comment"]) == (before["id"], "half a thought")
        assert row["seconds"] >= before["seconds"] > 0
        assert (
            desk.run("Object.keys(localStorage).filter((key) => key.includes(':draft:')).length") == 1
        )  # the next one's

    def test_a_clock_that_is_put_a_year_ahead_keeps_it(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        script = "{ const real = Date.now; Date.now = () => real() + 365 * 864e5; }"
        added = desk.browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
        desk.open()
        desk.browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)
        assert desk.letters() == "BACD"

    def test_going_elsewhere_and_back_keeps_it_too(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.browser.visit("about:blank", "location.href === 'about:blank'")
        desk.run("history.back()")
        desk.wait("document.querySelectorAll('#answers li').length === 4")
        assert (desk.letters(), desk.places()["B"]) == ("BACD", "1")

    def test_back_leads_to_the_last_judgement_to_correct_it(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.send()
        second = desk.text("#turns")
        desk.run("history.back()")
        desk.wait("!document.querySelector('#looking').hidden")
        assert (desk.letters(), desk.text("#send")) == ("BACD", "Unchanged")
        desk.settled()
        desk.click("#send")  # unchanged: nothing is sent
        desk.click(f"{desk.answer('D')} .up")
        desk.click("#send")
        first, correction = desk.stored(2)
        assert correction["supersedes"] == first["id"]
        assert said(correction) == {"B": 1, "A": 2, "D": 3, "C": 4}
        assert len(desk.rows()) == 1
        desk.wait(f"document.querySelector('#turns').textContent === {json.dumps(second)}")

    def test_the_first_back_does_not_leave_the_page(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.run("history.back()")
        desk.settled()
        assert desk.run("location.origin") == desk.serving.url
        assert desk.letters() == "BACD"

    def test_previous_goes_on_to_older_ones_also_after_a_reload(self, desk):
        for letter in "BC":
            desk.click(f"{desk.answer(letter)} .up")
            desk.send()
        desk.open()
        desk.click("#previous")
        desk.wait("!document.querySelector('#looking').hidden")
        assert desk.letters() == "ACBD"
        desk.click("#previous")
        desk.wait("document.querySelector('#answers .name').textContent === 'Answer B'")
        desk.click("#newer")
        desk.wait("document.querySelector('#answers .name').textContent === 'Answer A'")
        desk.click("#go-on")
        desk.wait("document.querySelector('#looking').hidden")
        assert desk.text("#send") == "This order is right"

    def test_offline_one_goes_on_and_back_online_all_is_sent_once(self, desk):
        with desk.offline():
            for letter in "BCD":
                desk.click(f"{desk.answer(letter)} .up")
                desk.send()
            told = "3 not sent yet; they are kept in this browser"
            desk.wait(f"document.querySelector('#notices').textContent.includes('{told}')")
            assert desk.text("#still-title") == "All that is here is done"
            assert desk.rows() == []
        rows = desk.stored(3)
        desk.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
        assert len({row["item"] for row in rows}) == len(desk.rows(True)) == 3
        assert desk.text("#notices") == ""
        self.drop_network_errors(desk)

    def test_a_server_that_is_restarted_costs_nothing(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.serving.stop()
        desk.send()
        desk.click(f"{desk.answer('C')} .up")
        desk.wait("document.querySelector('#notices').textContent.includes('1 not sent yet; it is kept')")
        desk.restart()
        assert said(desk.stored(1)[0]) == {"B": 1, "A": 2, "C": 3, "D": 4}
        desk.wait("document.querySelector('#notices').textContent === ''")
        assert desk.letters() == "ACBD"
        desk.send()
        desk.stored(2)
        self.drop_network_errors(desk)

    def test_what_was_not_sent_is_sent_by_the_next_visit(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.serving.stop()
        desk.send()
        assert desk.browser.dialogs == []
        desk.browser.call("Page.navigate", url="about:blank")
        desk.wait("location.href === 'about:blank'")
        assert desk.browser.dialogs == ["beforeunload"]
        desk.restart()
        desk.open()
        assert said(desk.stored(1)[0]) == {"B": 1, "A": 2, "C": 3, "D": 4}
        self.drop_network_errors(desk)

    def test_sent_twice_is_stored_once(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.click("#send", clicks=2)
        desk.stored(1)
        desk.settled()
        assert (desk.text("#send"), len(desk.rows(True))) == ("This order is right", 1)
        desk.click(f"{desk.answer('B')} .up")
        desk.browser.run("document.activeElement.blur()")
        desk.hold_enter(20)
        desk.stored(2)
        desk.settled()
        assert (desk.text("#send"), len(desk.rows(True))) == ("This order is right", 2)

    def test_an_answer_that_was_lost_on_the_way_is_asked_for_again(self, desk):
        """The server stored it, and the connection broke before it could say so."""
        desk.run(
            "(() => { const real = window.fetch; window.fetch = async (...all) => { const answer = await real(...all);"
            " if (String(all[0]).includes('judgements')) { window.fetch = real; throw new TypeError('cut'); }"
            " return answer; }; })()"
        )
        desk.click(f"{desk.answer('B')} .up")
        desk.send()
        desk.wait("Object.keys(localStorage).every((key) => !key.includes(':out:'))")
        assert len(desk.rows(True)) == 1

    def test_a_full_disk_is_told_and_waited_out(self, desk, monkeypatch):
        def full(*_):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(desk.serving.desk, "judge", full)
        desk.click(f"{desk.answer('B')} .up")
        desk.send()
        desk.wait("document.querySelector('#notices').textContent.includes('the disk of the server is full')")
        assert "1 not sent yet" in desk.text("#notices")
        monkeypatch.undo()
        desk.stored(1)
        desk.wait("document.querySelector('#notices').textContent === ''")
        self.drop_network_errors(desk)

    def test_what_the_server_refuses_is_told_and_can_be_done_anew(self, desk, monkeypatch):
        def refuse(*_):
            raise Refused("a reason")

        monkeypatch.setattr(desk.serving.desk, "judge", refuse)
        first = desk.text("#turns")
        desk.click(f"{desk.answer('B')} .up")
        desk.send()
        desk.wait("document.querySelector('#notices').textContent.includes('refused a judgement: a reason')")
        second = desk.text("#turns")
        monkeypatch.undo()
        desk.click(".notice.warn button:last-child")  # discard it
        desk.wait("document.querySelector('#notices').textContent === ''")
        desk.settled()
        assert desk.text("#turns") == second  # nothing is taken out of one's hands
        desk.send(), desk.send()
        assert desk.text("#turns") == first
        desk.click(f"{desk.answer('C')} .up")
        desk.send()
        assert [said(row)["C"] for row in desk.stored(2)] == [3, 2]
        self.drop_network_errors(desk)

    def test_seconds_are_those_of_a_person_who_is_there(self, desk):
        """At most a minute of a pause, and none while the tab is hidden."""
        script = """import('./clock.js').then(({ Clock }) => {
          let now = 0, hidden = false;
          performance.now = () => now;
          Object.defineProperty(document, 'hidden', { get: () => hidden });
          const clock = new Clock(), counted = [];
          const after = (seconds) => { now += 1000 * seconds; counted.push(clock.seconds); };
          const hide = (is) => { hidden = is; document.dispatchEvent(new Event('visibilitychange')); };
          clock.start(5); after(10); after(600); hide(true); after(30); hide(false); after(2);
          return counted; })"""
        assert desk.run(script) == [15, 75, 75, 77]

    def test_a_link_that_is_not_valid_any_more_is_told_and_nothing_goes(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        desk.browser.call("Network.clearBrowserCookies")
        desk.send()
        desk.wait("document.querySelector('#still-title').textContent === 'Please open your link again'")
        desk.join()
        assert said(desk.stored(1)[0]) == {"B": 1, "A": 2, "C": 3, "D": 4}
        self.drop_network_errors(desk)

    def test_somebody_else_s_link_in_the_same_browser_loses_nothing(self, desk):
        desk.click(f"{desk.answer('B')} .up")
        first = desk.browser.session
        desk.browser.new_tab()
        desk.join(who="ben")
        desk.browser.use(first)
        desk.send()  # as ben, to whom ana's item was not dealt
        desk.wait(
            "document.querySelector('#turns').textContent && document.querySelector('#send').textContent !== 'Send'"
        )
        assert (desk.rows(), desk.text("#notices")) == ([], "")
        desk.join()
        row = desk.stored(1)[0]
        assert (row["annotator"], said(row)["B"]) == ("ana", 1)
        self.drop_network_errors(desk)

    def test_a_browser_that_keeps_nothing_says_so_and_works(self, browser, tmp_path):
        blocked = (
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
        )
        script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=blocked)["identifier"]
        with page_of(browser, tmp_path, items()) as page:
            page.join()
            assert "This browser keeps nothing here" in page.text("#notices")
            page.click(f"{page.answer('B')} .up")
            page.send()
            assert said(page.stored(1)[0])["B"] == 1
            browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
            assert browser.errors == []

    def test_a_browser_without_room_still_sends_what_it_has_kept(self, desk):
        fill = (
            "(() => { for (let size = 1 << 22, n = 0; size >= 1; n += 1) {"
            " try { localStorage.setItem(`fill${n}`, 'x'.repeat(size)); } catch { size = Math.floor(size / 2); } } })()"
        )
        desk.click(f"{desk.answer('B')} .up")
        desk.serving.stop()
        desk.send()
        desk.click(f"{desk.answer('C')} .up")
        desk.run(fill)
        desk.click(f"{desk.answer('D')} .up")
        desk.restart()
        desk.open()
        assert said(desk.stored(1)[0]) == {"B": 1, "A": 2, "C": 3, "D": 4}
        desk.wait("Object.keys(localStorage).every((key) => !key.includes(':out:'))")
        assert desk.letters()[0] == "A" and desk.places()["A"] == "1"  # the draft as it last fitted
        desk.send()
        desk.stored(2)
        desk.run("localStorage.clear()")
        self.drop_network_errors(desk)

    def test_another_project_of_the_same_name_never_gets_a_draft(self, browser, tmp_path):
        with page_of(browser, tmp_path / "one", items()) as page:
            page.join()
            page.click(f"{page.answer('B')} .up")
            port = page.port
        with page_of(browser, tmp_path / "two", items()) as page:
            page.serving.stop()
            page.serving = serve.start(page.project, {"ana": None}, port=port)
            page.join()
            assert set(page.places().values()) == {"–"}

    @staticmethod
    def drop_network_errors(page) -> None:
        """A browser logs what it could not load, or was refused; anything else stays an error."""
        page.browser.errors[:] = [
            text for text in page.browser.errors if not text.startswith("Failed to load resource")
        ]


class TestTheEnd:
    def test_a_link_that_is_cut_off_leads_to_a_page_that_can_be_read(self, desk):
        link = desk.serving.link("ana")[:-5]
        desk.browser.visit(link, "document.querySelector('h1')", **PHONE)
        assert desk.text("h1") == "This link is not valid"
        assert desk.run("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]  # not a page shrunk to fit
        assert desk.run("parseFloat(getComputedStyle(document.querySelector('h1')).fontSize)") > 18
        TestNothingIsLost.drop_network_errors(desk)

    def test_the_last_judgement_is_called_saved_once_it_is(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1)) as page:
            page.join()
            assert page.text("#told").startswith("About 1 to judge")
            slow = "const real = window.fetch; window.fetch = (...all) => window.held.then(() => real(...all));"
            page.run(f"(() => {{ window.held = new Promise((go) => {{ window.go = go; }}); {slow} }})()")
            page.click(f"{page.answer('B')} .up")
            page.click("#send")
            assert page.text("#still-text") == "What you did last is being saved."
            assert page.text("#told") == "1 done"
            page.run("window.go()")
            page.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
            assert (page.text("#told"), "All of it is saved" in page.text("#still-text")) == ("1 saved", True)
            assert page.shown("#still-actions button") and browser.errors == []

    def test_the_last_judgement_without_a_connection_is_not_called_saved(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1)) as page:
            page.join()
            with page.offline():
                page.click(f"{page.answer('B')} .up")
                page.click("#send")
                page.wait("document.querySelector('#still-title').textContent === 'All that is here is done'")
                assert page.text("#told") == "1 done"
            page.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
            assert len(page.rows()) == 1

    def test_who_comes_when_others_judged_all_is_told_that_nothing_is_left(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1)) as page:
            page.join()
            page.click(f"{page.answer('B')} .up")
            page.send()
            page.stored(1)
            page.join(who="ben")
            assert page.text("#still-title") == "Nothing is left to judge"
            assert page.text("#told") == "" and not page.shown("#bar")

    def test_a_look_for_more_work_leaves_the_focus_where_it_is(self, browser, tmp_path):
        with page_of(browser, tmp_path, items(1)) as page:
            page.join()
            page.click(f"{page.answer('B')} .up")
            page.send()
            page.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
            page.run("(window.button = document.querySelector('#still-actions button')).focus()")
            page.run(
                "window.asked = new Promise((done) => { const real = window.fetch;"
                " window.fetch = async (...all) => { const answer = await real(...all); setTimeout(done, 300);"
                " return answer; }; }); dispatchEvent(new Event('online'))"
            )
            page.run("window.asked")
            assert page.run("document.activeElement === window.button")


class TestTwoTabs:
    @pytest.fixture
    def tabs(self, desk):
        """Two tabs with the same item; the second one is in front."""
        first = desk.browser.session
        second = desk.browser.new_tab()
        desk.open()
        yield first, second
        desk.browser.errors[:] = [text for text in desk.browser.errors if "409" not in text]
        desk.browser.call("Page.close")
        desk.browser.use(first)

    def rank(self, page, tab: str, letter: str) -> None:
        page.browser.use(tab)
        page.click(f"{page.answer(letter)} .up")
        page.send()

    def test_the_same_order_twice_is_one_judgement(self, desk, tabs):
        for tab in tabs:
            self.rank(desk, tab, "B")
        desk.wait("Object.keys(localStorage).every((key) => !key.includes(':out:'))")
        assert len(desk.rows(True)) == 1
        assert not desk.run("document.querySelector('#conflict').open")

    def test_another_order_shows_what_is_stored_and_can_leave_it(self, desk, tabs):
        self.rank(desk, tabs[0], "B")
        self.rank(desk, tabs[1], "C")
        desk.wait("document.querySelector('#conflict').open")
        places = "[...document.querySelectorAll('#conflict-{} li > :first-child')].map((e) => e.textContent)"
        assert desk.run(places.format("stored")) == ["1. B", "2. A", "3. C", "4. D"]
        assert desk.run(places.format("sent")) == ["1. A", "2. C", "3. B", "4. D"]
        assert "This is a" in desk.text("#conflict-stored")
        desk.click("#keep-stored")
        desk.wait("!document.querySelector('#conflict').open")
        assert [said(row)["B"] for row in desk.rows(True)] == [1]
        assert desk.text("#notices") == ""

    def test_or_replace_it_by_a_correction(self, desk, tabs):
        self.rank(desk, tabs[0], "B")
        self.rank(desk, tabs[1], "C")
        desk.wait("document.querySelector('#conflict').open")
        desk.press("Escape")  # later
        assert "You judged one item twice" in desk.text("#notices")
        desk.click(".notice[data-name=conflict] button")
        desk.click("#replace-stored")
        first, correction = desk.stored(2)
        assert correction["supersedes"] == first["id"]
        assert said(correction) == {"A": 1, "C": 2, "B": 3, "D": 4}


class TestGuidelines:
    def test_open_at_the_first_visit_and_when_they_changed(self, browser, tmp_path):
        with page_of(browser, tmp_path, items()) as page:
            page.join(guidelines=True)
            assert page.run("document.querySelector('#guidelines').open")
            page.click("#close-guidelines")
            page.open()
            assert not page.run("document.querySelector('#guidelines').open")
            (page.project.path / "guidelines.md").write_text("# New\n\nShorter is better.\n")
            page.open()
            assert page.run("document.querySelector('#guidelines').open")
            assert page.shown("#guidelines-changed")
            page.press("Enter")
            page.settled()
            page.click("#send")
            page.settled()
            page.send()
            sha256 = hashlib.sha256(page.project.guidelines().encode()).hexdigest()
            assert page.stored(1)[0]["guidelines_sha256"] == sha256

    def test_are_one_key_away_and_give_the_focus_back(self, desk):
        desk.press("ArrowDown")
        desk.press("g")
        assert desk.run("document.activeElement.closest('dialog[open]').id") == "guidelines"
        desk.press("Escape")
        assert not desk.run("document.querySelector('#guidelines').open")

    def test_markdown_becomes_elements_and_anything_else_stays_text(self, browser, tmp_path):
        text = (
            "# Title\n\nA **bold** and *italic* and `code <b>` and [link](javascript:alert(1)).\n"
            "Same paragraph, snake_case_name, 2*3*4.\n\n- one\n- two\n  - deeper\n\n3. three\n4. four\n\n> quoted\n\n"
            "```\n<script>alert(1)</script>\n```\n\n<img src=x onerror=alert(1)>\n\n" + HOSTILE
        )
        with page_of(browser, tmp_path, items(), guidelines=text) as page:
            page.join(guidelines=True)
            tags = page.run("[...document.querySelectorAll('#guidelines-text *')].map((e) => e.tagName).join(' ')")
            assert tags == "H3 P STRONG EM CODE SPAN UL LI LI UL LI OL LI LI BLOCKQUOTE PRE P P"
            assert "link (javascript:alert(1))" in page.text("#guidelines-text")
            assert "snake_case_name, 2*3*4" in page.text("#guidelines-text")
            assert page.run("document.querySelector('#guidelines-text ol').start") == 3
            assert browser.dialogs == browser.errors == []


class TestHostileText:
    @pytest.fixture
    def hostile(self, browser, tmp_path):
        prompt = [{"role": HOSTILE, "content": HOSTILE}, {"role": "user", "content": HOSTILE}]
        made = [Item("p0", prompt, (Answer("a0", HOSTILE), Answer("a1", "fine\n\n  kept\tspace"), Answer("a2", " \n")))]
        with page_of(browser, tmp_path, made, guidelines=HOSTILE) as page:
            browser.call("Network.enable")
            page.join(**PHONE)
            yield page

    def test_is_shown_as_text_and_does_nothing(self, browser, hostile):
        hostile.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert hostile.run("document.querySelectorAll('main img, main script, main a, main iframe').length") == 0
        shown = hostile.run("[...document.querySelectorAll('.text')].map((e) => e.textContent)")
        assert shown.count(visible(STORED)) == 3
        assert "fine\n\n  kept\tspace" in shown
        assert "(nothing but white space)" in shown
        assert all(url.startswith(hostile.serving.url) for url in browser.requests if not url.startswith("about:"))
        assert browser.dialogs == browser.errors == []
        assert hostile.run("document.documentElement.scrollWidth") <= 360

    def test_what_is_hidden_is_written_out_as_in_the_reports(self, hostile):
        codes = [*range(0x2200), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0200)]
        text = " ".join(map(chr, codes))
        script = f"import('./text.js').then((text) => text.visible({json.dumps(text)}))"
        assert hostile.run(script) == visible(text)

    def test_directions_do_not_leak_out_of_a_text(self, hostile):
        styles = hostile.run(
            "[...document.querySelectorAll('.text')].map((e) => [getComputedStyle(e).unicodeBidi, e.dir])"
        )
        assert set(map(tuple, styles)) <= {("isolate", "auto"), ("plaintext", "auto")}


class TestHugeText:
    @pytest.mark.parametrize("unit", ["word and line\n", "W"])
    def test_an_answer_of_a_megabyte_is_folded_and_usable(self, browser, tmp_path, unit):
        huge = unit * (1_000_000 // len(unit))
        made = [Item("p0", [{"role": "user", "content": "Say much."}], (Answer("a0", huge), Answer("a1", "short")))]
        with page_of(browser, tmp_path, made) as page:
            page.join(**PHONE)
            letter = page.run(
                "document.querySelector('#answers .more').closest('li').querySelector('.name').textContent"
            )[-1]
            assert page.run("document.body.textContent.length") < 20_000
            page.click(f"{page.answer(letter)} .more")
            assert page.run(
                f"document.querySelector({json.dumps(page.answer(letter) + ' .text')}).firstChild.length"
            ) == len(visible(huge))
            assert page.run("document.querySelectorAll('#answers .text')[0].childNodes.length") == 1
            assert page.run("document.documentElement.scrollHeight") < 4000  # it scrolls by itself
            assert page.run("document.documentElement.scrollWidth") <= 360
            page.press("ArrowDown")
            page.press("2")
            page.settled()
            page.press("Enter")
            assert sorted(said(page.stored(1)[0]).values()) == [1, 2]
            assert browser.errors == []


class TestLooks:
    @pytest.mark.parametrize("width", WIDTHS)
    def test_no_page_is_wider_than_its_screen_and_send_is_in_reach(self, looks, width):
        looks.open(width=width, height=640)
        assert looks.run("document.documentElement.scrollWidth") <= width
        box = looks.run(
            "(({bottom, right, height}) => [bottom, right, height])"
            "(document.querySelector('#send').getBoundingClientRect())"
        )
        assert box[0] <= 640
        assert box[1] <= width
        assert box[2] >= 44
        for dialog in ("guidelines", "keys", "skipping", "conflict"):
            looks.run(f"document.querySelector('#{dialog}').showModal()")
            right = looks.run(f"document.querySelector('#{dialog}').getBoundingClientRect().right")
            wide = looks.run(
                f"document.querySelector('#{dialog}').scrollWidth - document.querySelector('#{dialog}').clientWidth"
            )
            looks.run(f"document.querySelector('#{dialog}').close()")
            assert (right <= width, wide) == (True, 0)

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_from_its_ground(self, looks, dark):
        looks.open(dark=dark)
        colour = looks.run("getComputedStyle(document.body).backgroundColor")
        assert (colour == "rgb(21, 23, 26)") == dark
        looks.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert looks.run(CONTRAST) == []
        looks.press("ArrowDown"), looks.press("ArrowDown"), looks.press("="), looks.press("n"), looks.press("c")
        looks.run("document.querySelector('#guidelines').showModal()")
        time.sleep(0.4)
        assert looks.run(CONTRAST) == []

    def test_targets_are_as_large_as_a_finger(self, looks):
        looks.open(**PHONE)
        small = looks.run(
            "[...document.querySelectorAll('button, .handle, summary')]"
            ".filter((e) => e.checkVisibility() && !e.matches('.tie'))"
            ".filter((e) => { const b = e.getBoundingClientRect(); return b.height < 44 || b.width < 44; })"
            ".map((e) => e.outerHTML)"
        )
        assert small == []
        x, y = looks.middle("#answers > li:nth-child(2) .tie")
        for up in (-16, 16):
            assert looks.run(f"document.elementFromPoint({x}, {y + up}).closest('button')?.className") == "tie"

    def test_on_a_low_screen_the_head_makes_room(self, looks):
        looks.open(width=640, height=400)  # 1280 by 800 at 200 %
        looks.run("scrollTo({ top: 500, behavior: 'instant' })")
        assert looks.run("document.querySelector('.top').getBoundingClientRect().bottom") < 0
        assert looks.run("document.querySelector('#send').getBoundingClientRect().bottom") <= 400

    def test_less_motion_is_heeded(self, looks):
        looks.open()
        reduced = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        looks.browser.call("Emulation.setEmulatedMedia", media="", features=reduced)
        looks.press("ArrowDown"), looks.press("3")
        assert looks.run("document.getAnimations().length") == 0

    def test_colours_are_those_of_the_house(self):
        palettes = [
            dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]+)", part))
            for sheet in ((PAGE / "page.css").read_text(), house_style())
            for part in sheet.split("* { box-sizing")[0].split("prefers-color-scheme: dark", 1)
        ]  # fmt: skip
        for ours, house in (palettes[0::2], palettes[1::2]):
            assert len(ours.keys() & house.keys()) >= 10
            assert all(ours[name] == house[name] for name in ours.keys() & house.keys())


class TestAccessibility:
    def nodes(self, page) -> list[tuple[str, str]]:
        """(role, name) of what a screen reader finds."""
        found = page.browser.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in found if not node.get("ignored")
        ]

    def test_answers_and_buttons_have_names(self, desk):
        nodes = self.nodes(desk)
        assert [name for role, name in nodes if role == "listitem"] == [f"Answer {x}, no place yet" for x in "ABCD"]
        assert all(
            name for role, name in nodes if role in ("button", "textbox", "checkbox", "radio", "dialog", "region")
        )
        assert ("button", "Move answer B up") in nodes
        assert any(role in ("button", "ToggleButton") and name == "Tie answers A and B" for role, name in nodes)
        assert ("progressbar", "Items done") in nodes

    def test_prompt_and_answers_are_read_out_where_the_focus_comes(self, desk):
        described = "document.getElementById(document.activeElement.getAttribute('aria-describedby'))?.textContent"
        assert "What about p" in desk.run(described)
        for _ in "AB":
            desk.press("ArrowDown")
            assert desk.run(described) == desk.run("document.activeElement.querySelector('.text').textContent")

    def test_a_key_for_an_answer_goes_to_the_first_where_one_is_at_none(self, desk):
        desk.press("2")
        assert (desk.letters(), desk.text("#send")) == ("ABCD", "This order is right")
        assert desk.run("document.activeElement.querySelector('.name').textContent") == "Answer A"
        desk.press("9")
        assert desk.text("#said") == "There are 4 places."
        desk.press("2")
        assert desk.letters() == "BACD"

    def test_moves_are_spoken(self, desk):
        desk.press("ArrowDown")
        desk.press("ArrowDown")
        desk.press("1")
        assert desk.text("#said") == "Answer B, place 1 of 4"
        desk.press("ArrowDown")
        desk.press("=")
        assert desk.text("#said") == "Answer A, place 1 of 3, tied with B"
        assert desk.run("document.querySelector('#said').getAttribute('aria-live')") == "polite"
        assert "Answer A, place 1 of 3, tied with B" in [name for role, name in self.nodes(desk) if role == "listitem"]
        assert desk.run("document.activeElement.getAttribute('aria-posinset')") == "2"

    def test_the_focus_is_seen_and_follows_the_answer(self, desk):
        desk.press("ArrowDown")
        desk.press("4")
        assert desk.run("document.activeElement.querySelector('.name').textContent") == "Answer A"
        shadows = "[...document.querySelectorAll('#answers .card')].map((card) => getComputedStyle(card).boxShadow)"
        first, second, third, focused = desk.run(shadows)
        assert first == second == third != focused

    def test_a_button_that_moved_its_answer_keeps_the_focus(self, desk):
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "Tab", "Tab"):
            desk.press(key)
        assert desk.run("document.activeElement.getAttribute('aria-label')") == "Move answer D up"
        for _ in range(3):
            desk.press("Enter")
        assert desk.letters() == "DABC"

    def test_tab_leaves_the_list_after_the_buttons_of_one_answer(self, desk):
        desk.press("ArrowDown")
        passed = []
        for _ in range(6):
            desk.press("Tab")
            passed.append(desk.run("document.activeElement.id || document.activeElement.className"))
        assert passed[:3] == ["icon down", "none", "add-comment"]
        assert "send" in passed


class TestThePolicy:
    def test_is_kept_without_one_complaint_and_no_style_or_script_stands_in_the_page(self, desk):
        html = (PAGE / "index.html").read_text()
        assert not re.search(r"style=|<style|<script(?! type=\"module\" src=\"page.js\"></script>)| on[a-z]+=", html)
        for file in PAGE.glob("*.js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", file.read_text()
            )
        assert desk.browser.errors == []
