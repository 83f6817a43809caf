"""Verdicts already given, in a JSONL file: a comparison that is interrupted or repeated asks nothing twice."""

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path

from kit.compare.judges.pairwise import Question, Verdict
from kit.data.rows import Message

_MOST_TEXT = 300  # characters of a reply that are kept, for people to read


class VerdictCache:
    """The file's verdicts by key; `put` appends one line at once, from any thread. `path=None` keeps nothing on disk.

    A line that was cut off by an interruption is passed over. Replies without a verdict are written once there is a
    verdict: a judge that never gives one leaves nothing behind that a better one of the same name would inherit.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.verdicts, self._lock = path, dict[str, Verdict](), threading.Lock()
        self._waiting: list[str] = []  # lines that wait for a verdict
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                key, verdict = row["key"], row["verdict"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(key, str) and (verdict is None or verdict in (0, 0.5, 1)):
                self.verdicts[key] = verdict
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def put(self, key: str, verdict: Verdict, text: str, keep: bool = True) -> None:
        """Keep a verdict, on disk only if `keep`; `text` is the judge's reply."""
        line = json.dumps({"key": key, "verdict": verdict, "reply": text[:_MOST_TEXT]}, ensure_ascii=True)
        with self._lock:
            self.verdicts[key] = verdict
            if keep:
                self._waiting.append(line)
            if self.path is None or all(verdict is None for verdict in self.verdicts.values()):
                return
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{one}\n" for one in self._waiting)
            self._waiting.clear()


def question_key(judge: Mapping[str, str | None], template: str, prompt: list[Message], question: Question) -> str:
    """SHA-256 of all that a verdict depends on: which judge, the template, the conversation, both answers in order."""
    parts = [dict(judge), template, prompt, question.first, question.second]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
