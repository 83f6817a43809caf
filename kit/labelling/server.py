"""A labelling project over HTTP: the page, the links, and a person's work and judgements as JSON.

A judgement is answered with 200 when it is on disk, never before. Who asks is known by a cookie, which the secret link
leaves, or by a key in the header Authorization, for a page in a notebook's frame, where browsers withhold cookies.
"""

import asyncio
import errno
import hashlib
import hmac
import json
import sqlite3
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kit.errors import KitError
from kit.labelling.guard import Addresses, Guard
from kit.labels import links
from kit.labels.desk import Desk, Refused

MOST_BODY = 64 * 1024  # bytes
_DRAINED = 1024 * 1024  # bytes that are read and dropped of a body over the limit, so that its sender hears of it
_BODY_SECONDS = 60.0
_NO_LINK = "no-link.html"
_COOKIE_SECONDS = 400 * 24 * 3600  # browsers keep none longer
_PAGE = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {
    "/": "index.html",
    **{f"/{file.name}": file.name for file in sorted(_PAGE.iterdir()) if file.suffix in _KINDS},
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOBODY = "not let in: open your own link again (it is printed where the server was started)"


class Doors:
    """Who is let in, and by what. Looked up by hashes, so that the time it takes tells nothing."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # The cookie's name is the project's own: cookies do not keep two ports of one host apart.
        self.cookie = f"kit-{hmac.new(secret, b'cookie', 'sha256').hexdigest()[:12]}"
        self._links: dict[bytes, str] = {}
        self._sessions: dict[bytes, str] = {}

    def let_in(self, name: str, key: str | None = None) -> None:
        """Let a person in, by their link and session; `key`: by this one as well, for as long as the server runs."""
        self._links[_sha256(links.token(self._secret, name))] = name
        for one in (links.session(self._secret, name), key):
            if one is not None:
                self._sessions[_sha256(one)] = name

    def by_link(self, token: str) -> str | None:
        """Whose link it is."""
        return self._links.get(_sha256(token))

    def by_request(self, request: Request) -> str:
        """Who asks. Raises 401 where nobody knows."""
        given = request.headers.get("authorization")
        if given is None:
            key = request.cookies.get(self.cookie, "")
        else:
            key = given[7:] if given[:7].lower() == "bearer " else ""
        who = self._sessions.get(_sha256(key))
        if who is None:
            raise HTTPException(401, _NOBODY)
        return who

    def session(self, name: str) -> str:
        """What the cookie holds."""
        return links.session(self._secret, name)


def application(desk: Desk, doors: Doors, addresses: Addresses) -> ASGIApp:
    """The whole server of a project's desk, for those whom the doors let in, at these addresses."""
    encrypted = addresses.outward is not None and addresses.outward.startswith("https://")

    def page(request: Request) -> Response:
        file = _PAGE / _FILES[request.url.path]
        try:
            return Response(file.read_bytes(), media_type=_KINDS[file.suffix])
        except FileNotFoundError:
            raise HTTPException(404) from None

    def join(request: Request) -> Response:
        who = doors.by_link(request.path_params["token"])
        if who is None:
            return HTMLResponse((_PAGE / _NO_LINK).read_bytes(), 403)
        # Relative: behind a proxy, the page may lie in a folder.
        answer = RedirectResponse("../", 303)
        answer.set_cookie(
            doors.cookie, doors.session(who), max_age=_COOKIE_SECONDS, path="/", httponly=True, samesite="lax",
            secure=encrypted,
        )  # fmt: skip
        return answer

    def work(request: Request) -> Response:
        return _json(desk.work(doors.by_request(request)))

    def history(request: Request) -> Response:
        return _json({"judgements": desk.history(doors.by_request(request))})

    async def judgements(request: Request) -> Response:
        who = doors.by_request(request)
        sent = _read_json(await _body(request))
        return _json(await run_in_threadpool(desk.judge, who, sent))

    routes = [
        *(Route(path, page) for path in _FILES),
        Route("/join/{token}", join),
        Route("/api/work", work),
        Route("/api/history", history),
        Route("/api/judgements", judgements, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused_by_http,
        Refused: _refused,
        KitError: _cannot,
        sqlite3.Error: _not_stored,
        OSError: _not_stored,
        ClientDisconnect: _gone,
        Exception: _our_bug,
    }
    inner = Starlette(routes=routes, exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return Guard(inner, addresses)


async def _body(request: Request) -> bytes:
    """The body of a JSON request, of 64 KiB at most, counted as it comes. Raises HTTPException."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "wanted Content-Type: application/json")
    read, length = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= MOST_BODY:
                    read += chunk
                elif length > _DRAINED:
                    break
    except TimeoutError:
        raise HTTPException(408, "the request did not come to its end") from None
    if length > MOST_BODY:
        raise HTTPException(413, f"wanted {MOST_BODY:,} bytes at most")
    return bytes(read)


def _read_json(body: bytes) -> Any:
    """The value of strict JSON: UTF-8, no NaN, no key twice. Raises HTTPException."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise HTTPException(400, "wanted JSON in UTF-8, without NaN, each key once") from None


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _json(value: Any, status: int = 200) -> Response:
    """JSON that also holds a text whose characters are no valid UTF-8."""
    return Response(json.dumps(value).encode(), status, media_type="application/json")


def _error(status: int, why: str, standing: Any = None) -> Response:
    answer = _json({"error": why, "standing": standing}, status)
    if status in (401, 408, 413, 415):
        answer.headers["Connection"] = "close"  # the rest of a body may be on its way
    return answer


def _refused_by_http(_: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


def _refused(_: Request, error: Refused) -> Response:
    return _error(400 if error.standing is None else 409, str(error), error.standing)


def _cannot(_: Request, error: KitError) -> Response:
    return _error(503, str(error))


def _not_stored(_: Request, error: Exception) -> Response:
    full = "full" in str(error).lower() or getattr(error, "errno", None) in _FULL
    what = "the disk of the server is full" if full else "the server cannot write now"
    return _error(507 if full else 503, f"nothing was stored: {what}; what you entered is kept here, try again later")


def _gone(_: Request, __: ClientDisconnect) -> Response:
    return _error(400, "the request did not come to its end")


def _our_bug(_: Request, __: Exception) -> Response:
    return _error(500, "the server made a mistake; what went wrong stands in its terminal")


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
