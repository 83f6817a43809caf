"""A labelling project on disk: what is to be ranked, by which rules, and where the judgements are kept.

    labels/<name>/project.json         name, kind, seed, people an item; who made it and from what
                  items.jsonl          one line an item: a prompt and its answers; never changed once it was dealt
                  guidelines.md        what annotators go by; may be edited, each judgement says which text it saw
                  judgements.sqlite    the store (kit.labels.store)
                  .secret              what the secret links are made of, readable by its owner alone

A project of kind `rank` has 2 to 9 answers an item, one of kind `ab` two, of which the page asks which is better.
"""

import hashlib
import html
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kit.errors import DataError
from kit.runs.files import publish_folder, write_json, write_text

PROJECT_FILE, ITEMS_FILE, GUIDELINES_FILE = "project.json", "items.jsonl", "guidelines.md"
STORE_FILE, SECRET_FILE = "judgements.sqlite", ".secret"
OWN_FILES = (PROJECT_FILE, ITEMS_FILE, GUIDELINES_FILE, STORE_FILE, SECRET_FILE)
MOST_ANSWERS = 9  # as many as there are number keys
_FORM = 1  # of the files; a later kit that changes them raises it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ITEMS_STAY = "Items stay as they were made; put back the file as it was, e.g. from a backup"

Kind = Literal["rank", "ab"]
Message = dict[str, str]

GUIDELINES = {
    "rank": """# How to rank

The answer that you would most like to get goes on top.

1. **Right before nice.** An answer that is wrong, or that does not answer, goes below one that is right.
2. **What was asked.** Prefer the answer that does what the question asks, no more and no less.
3. **Length is no merit.** Of two answers that say the same, the shorter one is better.
4. **A tie is an answer.** If you see no difference that matters, tie them.

Skip an item that you cannot judge, and say why. Where no answer would do, mark “None is acceptable”, and
still rank them if one is less bad than another.
""",
    "ab": """# Which is better?

Choose the answer that you would rather get. Right before nice; what was asked, no more and no less; length is no merit.
If you see no difference that matters, they are equal.
""",
}


@dataclass(frozen=True)
class Answer:
    """One answer of an item. `made` says how it came about (adapter, temperature, seed); annotators do not see it."""

    name: str
    text: str
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A prompt and its answers. A repeat has the answers of the item that it repeats; gold are the right ranks."""

    name: str
    prompt: list[Message]
    answers: tuple[Answer, ...]
    gold: tuple[int, ...] | None = None
    repeat_of: str | None = None
    about: dict[str, Any] = field(default_factory=dict)  # of an A/B item: its arms and the prompt's number

    @cached_property
    def words_sha256(self) -> str:
        """SHA-256 of what people judge, and of what ranks go by: the prompt, and the answers in their order."""
        words = [self.prompt, [[answer.name, answer.text] for answer in self.answers]]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Project:
    """A project that is there. `settings` is project.json; units: people an item, share of items."""

    path: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The project's name."""
        return str(self.settings["name"])

    @property
    def kind(self) -> Kind:
        """Whether answers are ranked, or one of two is chosen."""
        return "ab" if self.settings["kind"] == "ab" else "rank"

    @property
    def per_item(self) -> int:
        """How many people judge each item."""
        return int(self.settings["per_item"])

    @property
    def overlap(self) -> float:
        """The share of items that two people judge where `per_item` is 1: without any, agreement is unknown."""
        return float(self.settings["overlap"])

    @property
    def seed(self) -> int:
        """What chance in dealing and shuffling starts from."""
        return int(self.settings["seed"])

    @property
    def store(self) -> Path:
        """The file of the judgements."""
        return self.path / STORE_FILE

    @cached_property
    def items(self) -> dict[str, Item]:
        """The items by name, in their order. Raises DataError for what is no item, and what nobody can judge."""
        items = _read_items(self.path / ITEMS_FILE)
        _check_items(str(self.path / ITEMS_FILE), items, self.kind)
        return {item.name: item for item in items}

    def __str__(self) -> str:
        """The folder and what is in it: "labels/mine: 54 items to rank, of which 4 repeats and 5 gold"."""
        repeats = sum(item.repeat_of is not None for item in self.items.values())
        gold = sum(item.gold is not None for item in self.items.values())
        parts = [f"{repeats:,} repeat{'s' * (repeats > 1)}"] * bool(repeats) + [f"{gold:,} gold"] * bool(gold)
        of_them = " and ".join(parts)
        what = "choices between two answers" if self.kind == "ab" else "items to rank"
        return f"{self.path}: {len(self.items):,} {what}" + (f", of which {of_them}" if of_them else "")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<p>{html.escape(str(self))}</p>"

    def guidelines(self) -> str:
        """What the guidelines say now; empty where the file was removed."""
        try:
            return (self.path / GUIDELINES_FILE).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise DataError(f"{self.path / GUIDELINES_FILE}: cannot be read: {error.strerror or error}") from None

    def secret(self) -> bytes:
        """What the links are made of; made when first asked for."""
        file = self.path / SECRET_FILE
        try:
            kept = bytes.fromhex(file.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return self.new_secret()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
        except ValueError:
            raise DataError(f"{file}: not what the kit wrote; remove it, and new links are made") from None
        if len(kept) < 16:
            raise DataError(f"{file}: cut off; remove it, and new links are made")
        return kept

    def new_secret(self) -> bytes:
        """Make every link there is invalid, and the ground for new ones."""
        made = secrets.token_bytes(32)
        file, temporary = self.path / SECRET_FILE, self.path / f"{SECRET_FILE}.{os.getpid()}.tmp"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as out:
            out.write(made.hex())
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
        return made


def is_project(path: Path) -> bool:
    """Whether a folder is a labelling project."""
    return (path / PROJECT_FILE).is_file() and (path / ITEMS_FILE).is_file()


def open_project(path: Path | str) -> Project:
    """The project in a folder. Raises DataError, which says what is there instead."""
    folder = Path(path)
    file = folder / PROJECT_FILE
    if not is_project(folder):
        found = f"holds no {PROJECT_FILE} and {ITEMS_FILE}"
        if not folder.is_dir():
            found = "is a file, and a project is a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; make a project with `kit sample RUN --prompts prompts.jsonl`")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    _check_settings(file, settings)
    return Project(folder, settings)


def require_new(path: Path | str) -> Path:
    """The folder, if a project can be made there. Raises DataError where it cannot: it is there, it has no name for a
    project, or nothing can be written there."""
    folder = Path(path)
    if not _NAME.fullmatch(folder.name):
        raise DataError(f"{folder.name!r}: a project's name has letters, digits, `.`, `_` and `-`, 64 at most")
    if folder.exists():
        raise DataError(f"{folder}: is there already, and judgements are never written over; choose another name")
    place = next((one for one in folder.absolute().parents if one.exists()), folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"{folder.parent}: no folder can be made or written there; choose another one for projects")
    return folder


def create_project(
    path: Path | str,
    items: Sequence[Item],
    *,
    kind: Kind = "rank",
    per_item: int = 1,
    overlap: float = 0.2,
    seed: int = 0,
    guidelines: str | None = None,
    about: dict[str, Any] | None = None,
) -> Project:
    """Make the project's folder, whole or not at all. `about` is kept in project.json: what it was made from.

    Raises DataError where the folder is there already, or an item cannot be judged.
    """
    folder = require_new(path)
    settings = {
        "form": _FORM,
        "name": folder.name,
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seed": seed,
        "per_item": per_item,
        "overlap": overlap,
        **(about or {}),
    }
    _check_settings(folder / PROJECT_FILE, settings)
    _check_items(folder.name, items, kind)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{folder.parent}: no folder can be made there: {error.strerror or error}") from None
    try:
        lines = "".join(f"{json.dumps(_line(item), ensure_ascii=False)}\n" for item in items)
        write_text(made / ITEMS_FILE, _storable(lines))
        write_text(made / GUIDELINES_FILE, _storable(GUIDELINES[kind] if guidelines is None else guidelines))
        write_json(made / PROJECT_FILE, settings)
        publish_folder(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return open_project(folder)


def repeated(items: Sequence[Item], share: float, seed: int) -> list[Item]:
    """The items, and after them a repeat of `share` of those that are no gold, at least one where share is above 0."""
    import random

    plain = [item for item in items if item.gold is None and item.repeat_of is None]
    count = min(len(plain), max(1, round(share * len(plain)))) if share > 0 else 0
    chosen = random.Random(f"repeats {seed}").sample(plain, count)
    return [*items, *(Item(f"{one.name}.again", one.prompt, one.answers, None, one.name) for one in chosen)]


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot hold: lone surrogates, which JSON can bring in."""
    return text.encode("utf-8", "replace").decode()


def _line(item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {
        "item": item.name,
        "prompt": item.prompt,
        "answers": [asdict(answer) for answer in item.answers],
    }
    if item.gold is not None:
        row["gold"] = list(item.gold)
    if item.repeat_of is not None:
        row["repeat_of"] = item.repeat_of
    if item.about:
        row["about"] = item.about
    return row


def _read_items(file: Path) -> list[Item]:
    found = []
    number = 0
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                number += 1
                found.append(_read_item(json.loads(line)))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{file}:{number}: no item of a labelling project: {error!r}. {_ITEMS_STAY}") from None
    return found


def _read_item(row: Any) -> Item:
    answers = tuple(
        Answer(str(a["name"]), _storable(str(a["text"])), dict(a.get("made") or {})) for a in row["answers"]
    )
    gold = tuple(int(rank) for rank in row["gold"]) if row.get("gold") is not None else None
    prompt = [{"role": str(m["role"]), "content": _storable(str(m["content"]))} for m in row["prompt"]]
    repeats = None if row.get("repeat_of") is None else str(row["repeat_of"])
    return Item(str(row["item"]), prompt, answers, gold, repeats, dict(row.get("about") or {}))


def _check_settings(file: Path, settings: Any) -> None:
    if not isinstance(settings, dict) or settings.get("form") != _FORM:
        form = settings.get("form") if isinstance(settings, dict) else None
        raise DataError(f"{file}: form {form!r}; this kit reads form {_FORM}")
    wanted = {
        "kind": lambda v: v in ("rank", "ab"),
        "per_item": lambda v: isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 1000,
        "overlap": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1,
        "seed": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "name": lambda v: isinstance(v, str) and bool(v),
    }
    wrong = [f"{key}: {settings.get(key)!r}" for key, good in wanted.items() if not good(settings.get(key))]
    if wrong:
        raise DataError(
            f"{file}: {'; '.join(wrong)}; wanted kind rank or ab, per_item from 1 to 1000, overlap from 0 to 1, "
            "a whole seed and a name"
        )


def _check_items(name: str, items: Sequence[Item], kind: Kind) -> None:
    if not items:
        raise DataError(f"{name}: there is nothing to judge")
    most = 2 if kind == "ab" else MOST_ANSWERS
    seen: dict[str, Item] = {}
    for item in items:
        names = [answer.name for answer in item.answers]
        if item.name in seen:
            raise DataError(f"{name}: item {item.name!r} stands twice")
        if not 2 <= len(names) <= most or len(set(names)) < len(names):
            raise DataError(f"{name}: item {item.name!r} has {len(names)} answers; wanted 2 to {most}, each name once")
        if item.gold is not None and len(item.gold) != len(names):
            raise DataError(f"{name}: item {item.name!r}: gold has {len(item.gold)} ranks for {len(names)} answers")
        if item.gold is not None and not all(1 <= rank <= len(names) for rank in item.gold):
            raise DataError(f"{name}: item {item.name!r}: gold wants ranks from 1 to {len(names)}")
        if item.repeat_of is not None and item.repeat_of not in seen:
            raise DataError(f"{name}: item {item.name!r} repeats {item.repeat_of!r}, which does not stand before it")
        seen[item.name] = item
