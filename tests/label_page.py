"""The page on which people rank, as a person at a browser uses it: for tests."""

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import TIMEOUT, Browser

from kit.labelling import serve
from kit.labels.project import Answer, Item, Project, create_project
from kit.labels.rows import judgement_rows

KEYS = {
    "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9,
}  # fmt: skip
ALT, CTRL, SHIFT = 1, 2, 8
READY = "!document.querySelector('#item').hidden || document.querySelector('#still-title').textContent !== 'One moment'"


def items(count: int = 3, answers: int = 4, text: str = "This is {name} of {item}.") -> list[Item]:
    """Items p0, p1, ... whose answers a0, a1, ... say which they are."""
    made = []
    for number in range(count):
        item = f"p{number}"
        given = tuple(Answer(f"a{k}", text.format(name=f"a{k}", item=item)) for k in range(answers))
        made.append(Item(item, [{"role": "user", "content": f"What about {item}?"}], given))
    return made


def middle_of(selector: str) -> str:
    """An expression: scroll an element into the window, and where its middle is once the scrolling has been drawn."""
    return (
        f"(async () => {{ const e = document.querySelector({json.dumps(selector)});"
        " e.scrollIntoView({block: 'nearest', behavior: 'instant'});"
        " const drawn = () => new Promise((done) => { requestAnimationFrame(done); setTimeout(done, 200); });"
        " await drawn(); await drawn();"
        " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )


class Page:
    """A project's page in a browser. Answers are named by their letter on the page, which is their place in `shown`."""

    def __init__(self, browser: Browser, project: Project) -> None:
        self.browser, self.project = browser, project
        self.serving = serve.start(project, {"ana": None, "ben": None}, port=0)
        self.port = int(self.serving.url.rsplit(":", 1)[1])

    def join(self, guidelines: bool = False, who: str = "ana", **window: Any) -> None:
        """Open the secret link, and close the guidelines."""
        self.browser.visit(self.serving.link(who), READY, **window)
        if not guidelines and self.run("document.querySelector('#guidelines').open"):
            self.click("#close-guidelines")
        self.settled()

    def open(self, **window: Any) -> None:
        """Open the page again, as by reload."""
        self.browser.visit(self.serving.url + "/", READY, **window)
        self.settled()

    def restart(self) -> None:
        """Start the server again where it was."""
        self.serving = serve.start(self.project, {"ana": None, "ben": None}, port=self.port)

    @contextmanager
    def offline(self):
        """Without a network."""
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.browser.call("Network.enable")
        self.browser.call("Network.emulateNetworkConditions", offline=True, **conditions)
        try:
            yield
        finally:
            self.browser.call("Network.emulateNetworkConditions", offline=False, **conditions)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.browser.run(script)

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        self.browser.wait(condition)

    def still(self) -> None:
        """Wait until the page scrolls no more."""
        self.run(
            "new Promise((done) => { let last = null, since = performance.now(); const look = () => {"
            " if (scrollY !== last) { last = scrollY; since = performance.now(); }"
            " if (performance.now() - since > 300) done(); else requestAnimationFrame(look); }; look(); })"
        )

    def settled(self) -> None:
        """Wait until a new item takes a click: one that follows too soon is taken for the second of a double click."""
        time.sleep(0.5)

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def shown(self, selector: str) -> bool:
        """Whether an element is seen."""
        return self.run(f"Boolean(document.querySelector({json.dumps(selector)})?.checkVisibility())")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key by its name or its character."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = "\r" if key == "Enter" else key if len(key) == 1 and not modifiers & ~SHIFT else ""
        self.browser.press(key, code, text, modifiers)

    def hold_enter(self, repeats: int, begun: bool = False) -> None:
        """Enter is held down: one press, unless it had `begun`, and so many repeats."""
        for repeat in [True] * repeats if begun else [False] + [True] * repeats:
            self.browser.call(
                "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", autoRepeat=repeat,
                windowsVirtualKeyCode=13,
            )  # fmt: skip

    def click(self, selector: str, clicks: int = 1) -> None:
        """Click the middle of an element with the mouse, once it is in the window."""
        x, y = self.middle(selector)
        for count in range(1, clicks + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, clickCount=count)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element's middle is in the window, once nothing moves any more."""
        self.wait("document.getAnimations().length === 0")
        x, y = self.run(middle_of(selector))
        return x, y

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One mouse event."""
        buttons = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
        self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **{**buttons, **more})

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """One touch event."""
        self.browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def answer(self, letter: str) -> str:
        """A selector of an answer: valid until the order changes."""
        at = self.letters().index(letter) + 1
        return f"#answers > li:nth-child({at})"

    def letters(self) -> str:
        """The answers' letters in their order on the page."""
        return self.run(
            "[...document.querySelectorAll('#answers .name')].map((e) => e.textContent.replace('Answer ', '')).join('')"
        )

    def places(self) -> dict[str, str]:
        """The place shown on each answer."""
        places = self.run("[...document.querySelectorAll('#answers .place')].map((e) => e.textContent)")
        return dict(zip(self.letters(), places, strict=True))

    def send(self) -> None:
        """Click Send, and wait until the next item takes a click."""
        self.click("#send")
        self.settled()

    def rows(self, everything: bool = False) -> list[dict[str, Any]]:
        """What is stored."""
        return list(judgement_rows(self.project, everything))

    def stored(self, count: int) -> list[dict[str, Any]]:
        """What is stored, once so many judgements stand."""
        end = time.monotonic() + TIMEOUT
        while len(self.rows(True)) < count:
            assert time.monotonic() < end, f"{len(self.rows(True))} of {count} are stored"
            self.run("0")  # lets events of the browser come
            time.sleep(0.05)
        return self.rows(True)


def said(row: dict[str, Any]) -> dict[str, int]:
    """The rank of each letter: what a stored row says about the page that its author saw."""
    ranks = dict(zip(row["answers"], row["ranks"], strict=True))
    return {chr(65 + at): ranks[name] for at, name in enumerate(row["shown"])}


@contextmanager
def page_of(browser: Browser, folder: Path, made: list[Item], **settings: Any):
    """The page of a new project with these items, served until the block ends."""
    browser.errors.clear(), browser.dialogs.clear(), browser.requests.clear()
    browser.call("Network.clearBrowserCookies")
    project = create_project(folder / settings.pop("name", "sky"), made, overlap=0.0, **settings)
    page = Page(browser, project)
    try:
        yield page
    finally:
        page.serving.stop()
        browser.call("Page.navigate", url="about:blank")
