"""A project's server in a thread of this process: who is let in, at which address, and how it ends."""

import errno
import ipaddress
import os
import socket
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kit.errors import ConfigError, MachineError, RunError
from kit.labels import links
from kit.labels.desk import Desk
from kit.labels.project import Project, open_project
from kit.runs.lock import run_lock

if TYPE_CHECKING:
    from kit.labelling.server import Doors

PORT = 8765
ALONE = "me"  # who labels where nobody was named
_TRIED_PORTS = 50
_STOP_SECONDS = 5  # for answers that are on their way
_CONNECTIONS = 1000
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Serving:
    """A running server of a project. `url` is what people go to, without a slash at its end; `local_url` is where it
    listens: another one where a proxy stands before it."""

    def __init__(self, desk: Desk, doors: "Doors", local_url: str, server: Any, owned: ExitStack) -> None:
        self.project, self.desk, self.people = desk.project, desk, list[str]()
        self._doors = doors
        self.url = self.local_url = local_url
        self._secret = desk.project.secret()
        self._server, self._owned = server, owned
        self._ended, self._stopped = threading.Lock(), False
        self.judgements = 0  # that stood when it was stopped
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"kit label {desk.project.name}", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.local_url.rsplit(":", 1)[1])

    def let_in(self, people: Mapping[str, str | None], key: str | None = None) -> None:
        """Let more people in, name -> group; a group that was given before stays where none is given now.

        `key`: what lets them in beside their links, for as long as this server runs.
        """
        known = self.desk.store.annotators()
        self.desk.welcome({name: group or known.get(name) for name, group in people.items()})
        for name in people:
            self._doors.let_in(name, key)
            if name not in self.people:
                self.people.append(name)

    def link(self, name: str) -> str:
        """A person's secret link."""
        return f"{self.url}/join/{links.token(self._secret, self._person(name))}"

    def session(self, name: str) -> str:
        """What a page in a frame, or a program, sends as `Authorization: Bearer ...` to be this person."""
        return links.session(self._secret, self._person(name))

    def wait(self, seconds: float) -> bool:
        """Whether the server still runs after so many seconds. Raises MachineError where it ended by a fault."""
        self._thread.join(seconds)
        if self._failed is not None:
            raise MachineError(f"{self.project.path}: the server ended: {self._failed!r}")
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the server; what it acknowledged is on disk. Nothing happens the second time."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        with self._ended:
            if not self._stopped:
                with suppress(sqlite3.Error):
                    self.judgements = self.desk.store.count()
            self._stopped = True
            self._owned.close()

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._thread.start()
        while not self._server.started:
            if not self.wait(0.01):
                raise MachineError(f"{self.project.path}: the server did not start")

    def _run(self) -> None:
        try:
            self._server.run(self._sockets)
        except BaseException as error:
            self._failed = error

    def _person(self, name: str) -> str:
        if name not in self.people:
            raise ConfigError(f"{name!r} is none of those who are let in: {', '.join(self.people)}")
        return name


def start(
    project: Project | Path | str,
    people: dict[str, str | None] | None = None,
    *,
    listen: str = "127.0.0.1",
    port: int | None = None,
    url: str | None = None,
    new_links: bool = False,
    hosts: Iterable[str] = (),
    frames: Sequence[str] = (),
) -> Serving:
    """Serve a project from a thread until `.stop()`, or until the process ends.

    `people`: name -> group of those who are let in; None: all that ever were, else one who is called "me". `port`: None
    for 8765 or the next one that is free, 0 for any. `url`: the address that people come by where a proxy stands before
    the server. `new_links`: all links that there were are invalid from now on. `hosts`: more names that it may be
    reached by; one with a dot in front stands for all that end so. `frames`: whose pages may show ours in a frame, as
    in a content security policy.
    Raises ConfigError, MachineError, and RunError where the project is being served already.
    """
    if not isinstance(project, Project):
        project = open_project(project)
    url = None if url is None else _checked(url)
    try:
        import uvicorn

        from kit.labelling.guard import Addresses
        from kit.labelling.server import Doors, application
    except ImportError as error:
        raise MachineError(
            f"the page to rank on needs starlette and uvicorn ({error}): pip install 'rlhf-kit[label]'"
        ) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(project.path, otherwise="Go to the page that it serves, or stop it first"))
        except OSError as error:
            raise RunError(f"{project.path}: cannot be written: {error}") from None
        _ = project.items, project.guidelines(), project.secret()  # what is broken is told before anything is served
        desk = Desk(project)
        stack.callback(desk.close)
        if new_links:
            project.new_secret()
        doors = Doors(project.secret())
        listening = _bound(listen, port)
        stack.callback(listening.close)
        at = f"http://{_outward(listen)}:{listening.getsockname()[1]}"
        addresses = Addresses(frozenset((*_names(listen), *hosts)), url, tuple(frames))
        config = uvicorn.Config(
            application(desk, doors, addresses), loop="asyncio", http="h11", ws="none", lifespan="off",
            access_log=False, log_config=None, log_level="error", proxy_headers=False, server_header=False,
            date_header=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=_STOP_SECONDS,
        )  # fmt: skip
        serving = Serving(desk, doors, at, uvicorn.Server(config), stack.pop_all())
        serving.url = at if url is None else url
        try:
            serving.let_in((desk.store.annotators() or {ALONE: None}) if people is None else people)
            serving._begin([listening])
        except sqlite3.Error as error:
            serving.stop()
            raise RunError(f"{project.store}: cannot be written: {error}") from None
        except BaseException:
            serving.stop()
            raise
        return serving
    raise AssertionError("not reached")


def _checked(url: str) -> str:
    """An outward address without a slash at its end. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment or "@" in url)
        )
        _ = parts.port  # raises where it is none
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"--url {url}: wanted the address that people come by, e.g. https://label.example.org")
    return url.rstrip("/")


def _bound(listen: str, port: int | None) -> socket.socket:
    """A socket that is bound there. Raises ConfigError where it cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(listen, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--listen {listen}: no address of this machine ({error}); wanted e.g. 0.0.0.0 for all of them"
        ) from None
    for wanted in [port] if port is not None else [*range(PORT, PORT + _TRIED_PORTS), 0]:
        # asyncio switches Nagle's delay, 40 ms an answer, off only where the protocol is named.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # the port of a server that was just stopped is free again
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address[0], wanted, *address[2:]))
            made.listen(2048)
            return made
        except OSError as error:
            made.close()
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"--port {port}: taken; leave it out, and the next free one is used") from None
            raise ConfigError(f"--listen {listen} --port {wanted}: {error.strerror or error}") from None
    raise AssertionError("not reached")


def _outward(listen: str) -> str:
    """The host of the links: one that other machines reach where the server listens to them."""
    if not _is_all(listen):
        return f"[{listen}]" if ":" in listen else listen
    # The address from which this machine would speak to the network; nothing is sent.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _names(listen: str) -> set[str]:
    """The hosts by which a server that listens there may be asked for."""
    if listen in ("127.0.0.1", "localhost", "::1"):
        return set(_LOOPBACK)
    names = {listen.lower(), f"[{listen.lower()}]", _outward(listen).lower()}
    if _is_all(listen):
        import psutil

        own = socket.gethostname().lower()
        names |= {*_LOOPBACK, own, f"{own}.local"}
        for addresses in psutil.net_if_addrs().values():
            for one in addresses:
                plain = one.address.split("%")[0]
                names |= {plain, f"[{plain}]"} if one.family in (socket.AF_INET, socket.AF_INET6) else set()
    else:
        names |= {str(found[4][0]) for found in socket.getaddrinfo(listen, None)}
    return names


def _is_all(listen: str) -> bool:
    try:
        return ipaddress.ip_address(listen).is_unspecified
    except ValueError:
        return False


def is_local(listen: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return listen == "localhost" or ipaddress.ip_address(listen).is_loopback
    except ValueError:
        return False
