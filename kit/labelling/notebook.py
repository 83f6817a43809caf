"""The page to rank on inside a notebook: `kit.label(project)`.

The frame's address holds a key that is valid until the kernel ends, or `.stop()`: a saved notebook lets nobody in.
"""

import json
import secrets
import sys
from html import escape
from pathlib import Path

from kit.errors import ConfigError
from kit.labelling.serve import ALONE, Serving, start
from kit.labels import links
from kit.labels.project import Project, open_project

HEIGHT = 640  # pixels
# Whose pages may show the frame: notebooks on this machine, also through a tunnel, and those in VS Code.
_FRAMES = (
    "'self'", "http://localhost:*", "http://127.0.0.1:*", "https://localhost:*", "https://127.0.0.1:*",
    "vscode-webview:",
)  # fmt: skip
# Colab shows the port of its machine under an address of its own. Not tried there: see docs/labels.md.
_COLAB_HOSTS = (".googleusercontent.com", ".colab.dev")
_COLAB_FRAMES = ("https://*.google.com", "https://*.googleusercontent.com", "https://*.colab.dev")

_running: dict[Path, "_Running"] = {}


class _Running:
    """A project's server in this process, and the keys that its frames have: key -> name."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.keys: dict[str, str] = {}
        self.serving: Serving | None = None

    def let_in(self, name: str) -> str:
        """The person's key; the server is started where none runs, and the pages that are open stay as they are."""
        key = next((key for key, whose in self.keys.items() if whose == name), None) or secrets.token_urlsafe(32)
        self.keys[key] = name
        if self.serving is None or not self.serving.wait(0):
            colab = _in_colab()
            self.serving = start(
                self.project,
                {name: None},
                hosts=_COLAB_HOSTS if colab else (),
                frames=(*_FRAMES, *(_COLAB_FRAMES if colab else ())),
            )
        for known, whose in self.keys.items():
            self.serving.let_in({whose: None}, known)
        return key

    def stop(self) -> None:
        """End the server, and let its keys in no more."""
        if self.serving is not None:
            self.serving.stop()
        if _running.get(self.project.path.resolve()) is self:
            del _running[self.project.path.resolve()]


class Labelling:
    """A project's page in a notebook; it shows itself as the value of a cell."""

    def __init__(self, running: _Running, annotator: str, key: str, height: int) -> None:
        self.project, self.annotator, self.height = running.project, annotator, height
        self._running, self._key = running, key

    @property
    def url(self) -> str:
        """The page's address, for a browser tab of its own; valid until the kernel ends, or `.stop()`."""
        assert self._running.serving is not None
        return f"{self._running.serving.local_url}/#key={self._key}"

    @property
    def judgements(self) -> int:
        """How many judgements stand, of all people."""
        serving = self._running.serving
        assert serving is not None
        return serving.desk.store.count() if serving.wait(0) else serving.judgements

    def stop(self) -> None:
        """End the server; every judgement that the page called sent is on disk."""
        self._running.stop()

    def __repr__(self) -> str:
        return f"{self.project.name}: {self.judgements} judgements; {self.annotator} ranks at {self.url}"

    def _repr_html_(self) -> str:
        return _html(self)

    def _ipython_display_(self) -> None:
        if _in_colab():
            _show_in_colab(self)
            return
        from IPython.display import display

        display({"text/html": _html(self), "text/plain": repr(self)}, raw=True)


def label(project: Project | Path | str, annotator: str = ALONE, *, height: int = HEIGHT) -> Labelling:
    """The page to rank a project's items on, shown in the notebook; the server runs in this process.

    `annotator`: the name under which the judgements are kept. `height`: of the frame, in pixels. Called again it shows
    the server that runs already. Raises DataError where there is no project, ConfigError for a name that cannot be one,
    RunError where another process serves the project.
    """
    if not isinstance(project, Project):
        project = open_project(project)
    try:
        named = list(links.named(annotator)) == [annotator]
    except ConfigError:
        named = False
    if not named:
        raise ConfigError(
            f"annotator={annotator!r}: no name; wanted e.g. 'me' or 'ana', 64 characters at most, without commas, "
            "colons, quotes, slashes and brackets"
        )
    place = project.path.resolve()
    running = _running.get(place)
    if running is not None and running.project.settings != project.settings:  # made anew in its place
        running.stop()
    running = _running.setdefault(place, _Running(project))
    return Labelling(running, annotator, running.let_in(annotator), height)


def _html(shown: Labelling) -> str:
    """A frame, and under it the same address as a link: what a browser makes of a frame depends on where it runs.

    The frame's host follows the notebook's, so that both are one site, which keeps its drafts in one place.
    """
    port = shown.url.split("/")[2].rsplit(":", 1)[1]
    frame = f"kit-label-{secrets.token_hex(6)}"
    script = (
        f"(() => {{ const frame = document.getElementById({json.dumps(frame)}); "
        "const host = location.hostname === 'localhost' ? 'localhost' : '127.0.0.1'; "
        f"frame.src = `http://${{host}}:{port}/#key={shown._key}`; }})()"
    )
    soft = "color:inherit;opacity:.75;font:0.85em/1.5 system-ui,sans-serif;margin:.5em 0"
    return (
        f'<iframe id="{frame}" title="Rank answers: {escape(shown.project.name)}" '
        f'style="width:100%;height:{int(shown.height)}px;border:1px solid #8885;border-radius:8px"></iframe>'
        f"<script>{script}</script>"
        f'<p style="{soft}">Nothing to see? Open <a href="{escape(shown.url)}" target="_blank" rel="noopener">'
        f"{escape(shown.url.split('#')[0])}</a> in a tab of its own. Where the notebook runs on another machine, first "
        f"<code>ssh -L {port}:127.0.0.1:{port} THAT_MACHINE</code> in a terminal of yours.</p>"
    )


def _in_colab() -> bool:
    return "google.colab" in sys.modules


def _show_in_colab(shown: Labelling) -> None:
    from google.colab import output

    port = int(shown.url.split("/")[2].rsplit(":", 1)[1])
    output.serve_kernel_port_as_iframe(port, path=f"/#key={shown._key}", height=str(int(shown.height)))
