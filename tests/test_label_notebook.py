"""`kit.label(project)`: the page in a notebook's frame, let in by a key that ends with the kernel."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import CHROMIUM, Browser
from label_page import items, middle_of

import kit
from kit.labels import links
from kit.labels.project import create_project
from kit.labels.rows import judgement_rows
from kit.labels.store import Store

pytest.importorskip("uvicorn", reason="the server needs kit[label]")


@pytest.fixture
def project(tmp_path):
    """Ten items of three answers each."""
    return create_project(tmp_path / "labels" / "sky", items(10, 3), overlap=0.0)


@pytest.fixture
def shown(project):
    """The page as a cell has it."""
    labelling = kit.label(project.path)
    yield labelling
    labelling.stop()


def asked(address: str, key: str) -> int:
    """The status with which the server answers this key."""
    request = urllib.request.Request(f"{address}/api/work", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0  # nobody is there


def address_and_key(labelling) -> tuple[str, str]:
    address, key = labelling.url.split("/#key=")
    return address, key


class TestTheCall:
    def test_a_second_call_shows_the_same_server(self, shown, project):
        assert kit.label(str(project.path)).url == shown.url

    def test_somebody_else_is_let_in_beside(self, shown, project):
        other = kit.label(project, annotator="ben")
        assert address_and_key(other)[0] == address_and_key(shown)[0]
        assert [asked(*address_and_key(one)) for one in (shown, other)] == [200, 200]
        assert other.url != shown.url

    def test_somebody_else_is_let_in_without_a_restart(self, shown, project):
        """A restart would cut off the pages that are open, and might find its port taken."""
        before = shown._running.serving
        kit.label(project, annotator="ben")
        assert shown._running.serving is before and before.people == ["me", "ben"]

    def test_a_key_ends_with_its_server(self, project):
        first = kit.label(project)
        _, key = address_and_key(first)
        first.stop()
        second = kit.label(project)
        assert asked(address_and_key(second)[0], key) == 401
        second.stop()

    def test_a_saved_notebook_holds_no_lasting_secret(self, shown, project):
        html = shown._repr_html_()
        for made in (links.session, links.token):
            assert made(project.secret(), "me") not in html

    def test_it_counts_the_judgements_also_when_it_is_stopped(self, shown):
        address, key = address_and_key(shown)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}/api/work", headers=headers)) as answer:
            work = json.load(answer)
        sent = {"id": "0" * 20, "deal": work["work"][0]["deal"], "ranks": [1, 2, 3],
                "guidelines_sha256": work["guidelines"]["sha256"]}  # fmt: skip
        posted = urllib.request.Request(f"{address}/api/judgements", json.dumps(sent).encode(), headers)
        urllib.request.urlopen(posted).close()
        assert shown.judgements == 1
        shown.stop()
        assert shown.judgements == 1
        assert "sky: 1 judgements" in repr(shown)

    @pytest.mark.parametrize("name", ["", "a,b", "ana:north", '"><script>'])
    def test_what_is_no_name_is_refused(self, project, name):
        with pytest.raises(kit.ConfigError, match="annotator="):
            kit.label(project, annotator=name)

    def test_no_project_is_told(self, tmp_path):
        with pytest.raises(kit.DataError, match="no such folder"):
            kit.label(tmp_path / "labels" / "none")

    def test_a_project_made_anew_in_its_place_is_another_one(self, shown, project):
        shutil.rmtree(project.path)
        again = create_project(project.path, items(2, 3), seed=1)
        assert len(kit.label(again.path).project.items) == 2
        assert asked(*address_and_key(shown)) != 200
        kit.label(again.path).stop()


class TestInAKernel:
    def test_a_cell_shows_a_frame_and_a_link(self, project):
        nbformat = pytest.importorskip("nbformat")
        client = pytest.importorskip("nbclient").NotebookClient
        code = f"import kit\npage = kit.label({str(project.path)!r}, height=500)\npage"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        client(notebook, timeout=120).execute()
        data = notebook.cells[0].outputs[0]["data"]
        assert "<iframe" in data["text/html"]
        assert "height:500px" in data["text/html"]
        assert "ssh -L" in data["text/html"]
        assert "me ranks at http://127.0.0.1:" in data["text/plain"]


class Frame:
    """The only frame of the page that a browser shows."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def run(self, script: str):
        child = self.browser.call("Page.getFrameTree")["frameTree"]["childFrames"][0]["frame"]
        world = self.browser.call("Page.createIsolatedWorld", frameId=child["id"])["executionContextId"]
        found = self.browser.call("Runtime.evaluate", expression=script, contextId=world, returnByValue=True,
                                  awaitPromise=True)  # fmt: skip
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        assert self.comes(condition, 60), condition

    def comes(self, condition: str, seconds: float) -> bool:
        """Whether an expression holds within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(AssertionError):  # the frame is just being loaded anew
                if self.run(f"Boolean({condition})") is True:
                    return True
            time.sleep(0.05)
        return False

    def click(self, selector: str) -> None:
        """Click an element with the mouse, where it is in the whole window."""
        self.wait(f"document.querySelector({json.dumps(selector)}) && !document.getAnimations().length")
        x, y = self.run(middle_of(selector))
        left, top = self.browser.run("(({x, y}) => [x, y])(document.querySelector('iframe').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call(
                "Input.dispatchMouseEvent", type=kind, x=left + x, y=top + y, button="left", clickCount=1, buttons=1
            )

    def click_until(self, selector: str, condition: str) -> None:
        """Click as a person does, again where nothing came of it: the page may have moved under the mouse."""
        for _ in range(6):
            self.click(selector)
            if self.comes(condition, 10):
                return
        raise AssertionError(condition)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install one: apt install chromium")
class TestInABrowser:
    @pytest.fixture(scope="class")
    @classmethod
    def browser(cls, tmp_path_factory):
        with Browser(tmp_path_factory.mktemp("chromium")) as started:
            yield started

    @pytest.fixture
    def notebook(self, shown, tmp_path):
        """The port of a server like a notebook's, whose page holds what the cell shows."""

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        (tmp_path / "web").mkdir()
        noted = "<script>document.querySelector('iframe').onload = () => { window.loaded = true; };</script>"
        page = f'<!doctype html><link rel="icon" href="data:,"><body>{shown._repr_html_()}{noted}</body>'
        (tmp_path / "web" / "cell.html").write_text(page)
        server = ThreadingHTTPServer(("0.0.0.0", 0), partial(Quiet, directory=str(tmp_path / "web")))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
        server.server_close()

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_somebody_who_reads_nothing_ranks_ten_items_in_the_frame(self, browser, notebook, shown, project, host):
        browser.errors.clear()
        browser.visit(f"http://{host}:{notebook}/cell.html", "document.querySelector('iframe').src", width=1000)
        frame = Frame(browser)
        frame.wait("document.querySelector('#guidelines')?.open")
        assert frame.run("location.hostname") == host
        assert frame.run("location.hash") == ""  # the key is not left in the address
        frame.click("#close-guidelines")
        for _ in range(10):
            title = "document.querySelector('#turns').textContent"
            before = frame.run(title)
            frame.click("#answers > li:nth-child(2) .up")
            frame.wait("document.querySelector('#send').textContent === 'Send'")
            frame.click_until("#send", f"{title} !== {json.dumps(before)} || !document.querySelector('#still').hidden")
            time.sleep(0.5)  # a click that follows at once is taken for the second of a double click
        frame.wait("document.querySelector('#still-title').textContent.startsWith('That was all')")
        rows = list(judgement_rows(project))
        assert len(rows) == shown.judgements == 10
        assert {row["annotator"] for row in rows} == {"me"}
        assert browser.errors == []

    def test_a_page_from_elsewhere_cannot_put_it_in_a_frame(self, browser, notebook, project):
        browser.visit(f"http://127.0.0.2:{notebook}/cell.html", "window.loaded")
        assert project.store.exists()
        with closing(Store(project.store, read_only=True)) as store:
            assert store.deals() == []  # the page in the frame never asked for work
