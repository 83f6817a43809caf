"""A headless Chromium, driven over a pipe by the DevTools protocol; nothing but the browser is needed."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
TIMEOUT = 60  # seconds for one command


class Browser:
    """One page of a headless browser; use it in a `with`."""

    def __init__(self, folder: Path) -> None:
        """Start the browser; its profile and its downloads go to `folder`."""
        assert CHROMIUM is not None
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (commands, answers)]  # away from 3 and 4
        os.close(commands), os.close(answers)
        arguments = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--mute-audio",
                     "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
                     f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
        arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        # Chromium talks over descriptors 3 and 4. A small Python puts them there, as Popen may need its own 3 and 4.
        start = f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, CHROMIUM, *arguments, "about:blank"],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in ends:
            os.close(end)
        os.set_blocking(self._from, False)
        self._number, self._buffer, self._session = 0, b"", None
        self.errors: list[str] = []
        self.dialogs: list[str] = []  # alerts and questions of pages, each accepted at once
        self.requests: list[str] = []  # addresses, from `watch_network` on
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self._prepare()
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def _prepare(self) -> None:
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to), os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command; AssertionError where the browser refuses it or does not answer."""
        number = self._send(method, params, self._session)
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _send(self, method: str, params: dict[str, Any], session: str | None) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            assert time.monotonic() < end, "the browser does not answer"
            try:
                part = os.read(self._from, 1 << 20)
                assert part, "the browser has gone"
                self._buffer += part
            except BlockingIOError:
                time.sleep(0.005)
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])
        if message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in ("error", "warning"):
            self.errors.append(json.dumps(message["params"]["args"]))
        if message.get("method") == "Page.javascriptDialogOpening":
            self.dialogs.append(message["params"]["type"])
            self._send("Page.handleJavaScriptDialog", {"accept": True}, message["sessionId"])
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def new_tab(self) -> str:
        """A second page beside the first, which is gone to; `use` goes back. Returns its session."""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._prepare()
        return str(self._session)

    def use(self, session: str) -> None:
        """Go to another tab."""
        self._session = session
        self.call("Page.bringToFront")

    @property
    def session(self) -> str:
        """The tab that is driven now."""
        return str(self._session)

    def open(self, file: Path, width: int = 1200, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Load a page at this window's size, and wait until it is there."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.call("Page.navigate", url=file.as_uri())
        end = time.monotonic() + TIMEOUT
        while self.run("document.readyState + location.pathname") != f"complete{file.as_uri().removeprefix('file://')}":
            assert time.monotonic() < end, f"{file} did not load"
            time.sleep(0.02)

    def visit(self, url: str, ready: str, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Go to an address at this window's size, and wait until the expression `ready` holds there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.call("Page.navigate", url=url)
        self.wait(ready)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + TIMEOUT
        while not self._holds(condition):
            assert time.monotonic() < end, f"not in {TIMEOUT} s: {condition}"
            time.sleep(0.02)

    def _holds(self, condition: str) -> bool:
        found = self.call("Runtime.evaluate", expression=f"Boolean({condition})", returnByValue=True)
        return found["result"].get("value") is True  # an error while the page is being loaded is no

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """Press and release a key, as a person does. Modifiers: 1 Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        common = {"key": key, "code": key if text != " " else "Space", "windowsVirtualKeyCode": code}
        common["modifiers"] = modifiers
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """A picture of the page, all of it or what the window shows."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def print(self, file: Path) -> None:
        """The page on paper, as a PDF."""
        file.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))
