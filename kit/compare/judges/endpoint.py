"""One OpenAI-compatible server (OpenAI, vLLM, llama.cpp, Ollama, TGI and others), over the standard library's HTTP.

    Endpoint.complete(text) -> one of the `choices` of a chat completion, or Refused where this question cannot be had

What may pass by itself is tried again: 408, 409, 425, 429, 5xx, timeouts and broken connections. What cannot (a wrong
key, no such model, nobody at the address) ends the comparison with a message. The key is never part of any message.
"""

import email.utils
import ipaddress
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from kit import notices
from kit.compare.judges.reading import read_reply
from kit.errors import ConfigError, KitError, MachineError
from kit.secrets import redacted

SETTING = "compare.llm"
TOP_LOGPROBS = 5  # TGI's and older OpenAI limit; vLLM and OpenAI now allow 20
_REPLY_TOKENS = 16
_THOUGHT_TOKENS = 4_096  # for models and templates that think before they reply
_AGAIN = {408, 409, 425, 429}
_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS, _MOST_RETRY_AFTER_SECONDS = 1.0, 60.0, 600.0
_MOST_REPLY_BYTES = 10_000_000
_MOST_SAID = 300  # characters of a server's words in a message


class Refused(Exception):
    """The server will not answer this question (too long, or filtered); others it may."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """No redirect is followed: the key would go along to another host."""


@dataclass
class Endpoint:
    """Where to ask, and what was learnt of the server: parameters that it refuses are left out from then on."""

    model: str
    base_url: str
    api_key_env: str
    timeout_seconds: float
    max_retries: int
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.url = _chat_url(self.base_url)
        host = urlsplit(self.url).hostname or ""
        local = is_local(host)
        self._key = os.environ.get(self.api_key_env, "").strip()
        if not self._key and not local:
            raise ConfigError(
                f"{SETTING}: {host} wants a key, and the environment has no {self.api_key_env}. Set it (to "
                "any text where the server asks for none), or name the variable that holds the key in "
                "compare.llm.api_key_env; a key never stands in the configuration"
            )
        if self._key and not local and self.url.startswith("http://"):
            notices.warn(f"{SETTING}.base_url: http:// sends the key in {self.api_key_env} unencrypted to {host}")
        handlers: list[Any] = [_NoRedirect()] + [urllib.request.ProxyHandler({})] * local
        self._opener = urllib.request.build_opener(*handlers)
        self._answered = False  # whether the server ever did
        self._extra: dict[str, Any] = {
            "temperature": 0, "max_tokens": _REPLY_TOKENS, "logprobs": True, "top_logprobs": TOP_LOGPROBS,
        }  # fmt: skip

    def complete(self, text: str) -> dict[str, Any]:
        """The server's first choice for one user message. Raises Refused, or a KitError that ends the comparison."""
        while True:
            extra = dict(self._extra)
            status, body = self._post_again(
                {"model": self.model, "messages": [{"role": "user", "content": text}], **extra}
            )
            if status == 200:
                choice = self._cleared(_first_choice(body))
                cut_off = choice.get("finish_reason") == "length" and read_reply(choice) is None
                if cut_off and self._give_room(extra):
                    continue
                return choice
            if status in (400, 422) and self._leave_out(body, extra):
                continue
            raise Refused(f"HTTP {status}: {self._error_text(body)}")

    def _post_again(self, payload: dict[str, Any]) -> tuple[int, bytes]:
        """(status, body) of an answer that is final, after as many tries as allowed."""
        for attempt in range(self.max_retries + 1):
            wait = min(_BACKOFF_SECONDS * 2**attempt, _MOST_BACKOFF_SECONDS) * random.uniform(0.8, 1.2)
            try:
                status, body, retry_after = self._post(payload)
            except (OSError, HTTPException) as error:
                reason = self._without_key(str(getattr(error, "reason", None) or error))[:_MOST_SAID]
                problem = (
                    f"no answer in {self.timeout_seconds:g} s" if _timed_out(error) else f"no connection: {reason}"
                )
                if not self._answered and not _timed_out(error):
                    raise MachineError(
                        f"{self._where}: {problem}. Is the server running, and is compare.llm.base_url right?"
                    ) from None
            else:
                self._answered = True
                self._give_up_if_hopeless(status, body)
                if status < 500 and status not in _AGAIN:
                    return status, body
                problem = f"HTTP {status}: {self._error_text(body)}"
                if retry_after is not None:
                    wait = max(wait, retry_after)
                if wait > _MOST_RETRY_AFTER_SECONDS:
                    raise MachineError(f"{self._where}: {problem}; the server asks to wait {wait:.0f} s. Try later")
            if attempt < self.max_retries and self.stopped.wait(wait):
                break
        raise MachineError(
            f"{self._where}: gave up after {self.max_retries + 1} tries: {problem}. What was judged so far is kept: "
            "run again to go on from there, perhaps with fewer compare.llm.workers or more timeout_seconds"
        )

    def _post(self, payload: dict[str, Any]) -> tuple[int, bytes, float | None]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "rlhf-kit"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            request = urllib.request.Request(self.url, json.dumps(payload).encode(), headers, method="POST")
            with self._opener.open(request, timeout=self.timeout_seconds) as reply:
                return reply.status, reply.read(_MOST_REPLY_BYTES), None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(_MOST_REPLY_BYTES), _seconds(error.headers.get("Retry-After"))
        except ValueError:  # the library's message would show the key
            raise ConfigError(
                f"{self._where}: the address, or the key in {self.api_key_env}, holds characters HTTP does not allow"
            ) from None

    def _give_up_if_hopeless(self, status: int, body: bytes) -> None:
        says = self._error_text(body)
        problem: KitError | None = None
        if status in (401, 403):
            sent = (
                f"the key in {self.api_key_env}"
                if self._key
                else f"a request without a key ({self.api_key_env} is unset)"
            )
            problem = ConfigError(f"{self._where}: {sent} was refused (HTTP {status}: {says})")
        elif status in (404, 405) or 300 <= status < 400:
            problem = ConfigError(
                f"{self._where}: HTTP {status}: {says}. Check compare.llm.model, and compare.llm.base_url, "
                "which usually ends in /v1"
            )
        elif status == 402 or (status == 429 and b"insufficient_quota" in body):
            problem = MachineError(
                f"{self._where}: the account of the key in {self.api_key_env} has no credit left: {says}"
            )
        if problem is not None:
            raise problem

    def _leave_out(self, body: bytes, sent: dict[str, Any]) -> bool:
        """Stop sending a parameter that the server complains of; whether the question is worth asking again."""
        says = body.decode("utf-8", "replace")
        if "max_completion_tokens" in says and "max_tokens" in sent:  # OpenAI's reasoning models
            self._extra = {k: v for k, v in self._extra.items() if k != "max_tokens"}
            self._extra["max_completion_tokens"] = _THOUGHT_TOKENS
            return True
        for name in ("logprobs", "temperature"):
            if name in says and name in sent:
                self._extra = {k: v for k, v in self._extra.items() if not k.endswith(name)}
                notices.say(f"the judge's server does not take `{name}`; it is left out")
                return True
        return False

    def _give_room(self, sent: dict[str, Any]) -> bool:
        """Allow a judge that thinks first the tokens to do so; False if it had them."""
        name = "max_tokens" if "max_tokens" in sent else "max_completion_tokens"
        if sent[name] >= _THOUGHT_TOKENS:
            return False
        self._extra = {**self._extra, name: _THOUGHT_TOKENS}
        return True

    @property
    def _where(self) -> str:
        return f"{SETTING}: model {self.model} at {self.base_url_shown}"

    @property
    def base_url_shown(self) -> str:
        """The address without user name, password and query, which may be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.removesuffix('/chat/completions')}"

    def _error_text(self, body: bytes) -> str:
        """The server's own words, one line, without the key."""
        text = body.decode("utf-8", "replace")
        try:
            found = json.loads(text)
            error = found.get("error", found)
            text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        except (ValueError, AttributeError, RecursionError):
            pass
        return self._without_key(" ".join(text.split()))[:_MOST_SAID] or "no message"

    def _cleared(self, value: Any) -> Any:
        """A reply whose texts hold no key: they are kept on disk and shown."""
        if isinstance(value, str):
            return self._without_key(value)
        if isinstance(value, dict):
            return {self._without_key(key): self._cleared(inner) for key, inner in value.items()}
        return [self._cleared(inner) for inner in value] if isinstance(value, list) else value

    def _without_key(self, text: str) -> str:
        return redacted(text.replace(self._key, "[key]") if self._key else text)


def is_local(host: str) -> bool:
    """Whether a host is this machine, which may go without a key."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _chat_url(base_url: str) -> str:
    parts = urlsplit(base_url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{SETTING}.base_url: wanted an address such as http://localhost:8000/v1; got {base_url!r}")
    if parts.username or parts.password:
        raise ConfigError(f"{SETTING}.base_url: holds a user name or password; put the key into the environment")
    return base_url.strip().rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


def _first_choice(body: bytes) -> dict[str, Any]:
    """The reply's first choice; Refused where there is none (TGI may answer 200 with an error inside)."""
    try:
        choice = json.loads(body)["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise Refused("the reply is not a chat completion") from None
    if not isinstance(choice, dict):
        raise Refused("the reply is not a chat completion")
    return choice


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
