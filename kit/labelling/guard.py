"""What stands before every request: whose address it came by, which page sent it, and what the answer may do.

A browser keeps another site's page from reading our answers, but not from sending requests; and a site whose name is
pointed at this machine (DNS rebinding) is no other site to the browser. So the Host has to be an address that is served
here, and what changes something has to come from our own page.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_READING = {"GET", "HEAD"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'; "
    "frame-ancestors {}"
)


@dataclass(frozen=True)
class Addresses:
    """What the server is reached by.

    `hosts`: names and addresses without a port, as tunnels change it; one that begins with a dot stands for all names
    that end so. `outward`: the address people use where a proxy stands before the server. `frames`: whose pages may
    show ours in a frame.
    """

    hosts: frozenset[str]
    outward: str | None = None
    frames: tuple[str, ...] = ()

    def serves(self, host: str) -> bool:
        """Whether a Host header names an address that is served here."""
        found = _HOST.fullmatch(host)
        return found is not None and self._known(found[1])

    def sends(self, origin: str, host: str) -> bool:
        """Whether an Origin header is that of our own page, which came by `host`."""
        if origin in (f"http://{host}", None if self.outward is None else _origin_of(self.outward)):
            return True
        # A notebook's proxy ends the encryption, and may change the host on its way.
        found = _HOST.fullmatch(origin.removeprefix("https://")) if origin.startswith("https://") else None
        return found is not None and any(one[0] == "." and found[1].lower().endswith(one) for one in self.hosts)

    def _known(self, name: str) -> bool:
        name = name.lower()
        if self.outward is not None and name == urlsplit(self.outward).hostname:
            return True
        return any(name == one or (one[0] == "." and name.endswith(one)) for one in self.hosts)


class Guard:
    """The application behind its guard: an ASGI application again."""

    def __init__(self, application: ASGIApp, addresses: Addresses) -> None:
        self._application, self._addresses = application, addresses
        self._policy = _POLICY.format(" ".join(addresses.frames) or "'none'")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or answer with the headers that keep the page to itself."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._mark(MutableHeaders(scope=message))
            await send(message)

        why = self._refusal(scope["method"], Headers(scope=scope))
        if why is None:
            await self._application(scope, receive, guarded)
            return
        refused = JSONResponse({"error": why, "standing": None}, 403, {"Connection": "close"})
        await refused(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._addresses.serves(hosts[0]):
            return (
                "this server does not go by that address; where people are meant to come by it, start the server with "
                "`--url` and the whole address, e.g. --url http://192.0.2.7:8765"
            )
        if method in _READING:
            return None
        origins, site = headers.getlist("origin"), headers.get("sec-fetch-site")
        if not origins and site is None and "cookie" not in headers:
            return None  # no browser, or no secret that a browser would have added by itself
        if len(origins) != 1 or not self._addresses.sends(origins[0], hosts[0]) or site not in (None, "same-origin"):
            return "this was not sent by the page of this server; open your link in a tab of its own"
        return None

    def _mark(self, headers: MutableHeaders) -> None:
        headers["Content-Security-Policy"] = self._policy
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cache-Control"] = "no-store"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not self._addresses.frames:
            headers["X-Frame-Options"] = "DENY"


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
