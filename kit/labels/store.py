"""The store of a labelling project: SQLite, append-only. What was acknowledged is on disk, and nothing is ever changed.

Five tables; triggers refuse UPDATE and DELETE. A correction is a new row that names the one it supersedes. `words` has
a hash of each item's words, so that what was said of them is not taken for said of others in their place. Every write
is one `BEGIN IMMEDIATE` transaction: a plain BEGIN that reads and then writes fails under load, however long it waits
(https://simonwillison.net/2025/Feb/17/sqlite-busy). `synchronous=FULL`: a commit survives a power failure.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kit.errors import RunError

_CLIENT = re.compile(r"[0-9A-Za-z-]{16,64}")
WAIT_SECONDS = 30.0  # for another process's write
_NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "gluster", "lustre", "vboxsf", "drvfs", "virtiofs")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS annotators (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, grouped TEXT, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS guidelines (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS words (
    id INTEGER PRIMARY KEY, item TEXT NOT NULL, sha256 TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS deals (
    id INTEGER PRIMARY KEY, annotator TEXT NOT NULL, item TEXT NOT NULL, shown TEXT NOT NULL, time REAL NOT NULL,
    UNIQUE (annotator, item));
CREATE TABLE IF NOT EXISTS judgements (
    id INTEGER PRIMARY KEY, client TEXT NOT NULL UNIQUE, deal INTEGER NOT NULL REFERENCES deals (id),
    ranks TEXT, skip TEXT, none_acceptable INTEGER NOT NULL, comment TEXT NOT NULL, seconds REAL,
    guidelines TEXT NOT NULL, time REAL NOT NULL, supersedes TEXT UNIQUE REFERENCES judgements (client),
    CHECK ((ranks IS NULL) <> (skip IS NULL)));
CREATE UNIQUE INDEX IF NOT EXISTS one_first ON judgements (deal) WHERE supersedes IS NULL;
CREATE VIEW IF NOT EXISTS standing AS SELECT * FROM judgements AS one
    WHERE NOT EXISTS (SELECT 1 FROM judgements AS later WHERE later.supersedes = one.client);
"""
_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table}
    BEGIN SELECT RAISE(ABORT, 'append-only: a correction is a new row'); END;
"""


@dataclass(frozen=True)
class Deal:
    """An item that was given to a person: the answers' names in the order of the page, and when."""

    id: int
    annotator: str
    item: str
    shown: tuple[str, ...]
    time: float  # seconds since 1970


@dataclass(frozen=True)
class Given:
    """What a person said of a deal. `ranks` follow the item's answers, 1 is best, equals share; None: skipped."""

    client: str  # made by the page, once; what is sent twice under one of these is stored once
    deal: int
    ranks: tuple[int, ...] | None
    skip: str | None  # why
    none_acceptable: bool
    comment: str
    seconds: float | None
    guidelines: str  # sha256 of the text that was shown
    time: float  # seconds since 1970
    supersedes: str | None = None  # the `client` of the judgement that this one corrects

    @property
    def said(self) -> tuple[Any, ...]:
        """What it says, whoever brought it and when."""
        return self.ranks, self.skip, self.none_acceptable, self.comment


@dataclass(frozen=True)
class Arriving:
    """A judgement that comes from elsewhere, with the deal that it is of. `shown` is empty where nobody knows it."""

    annotator: str
    group: str | None
    item: str
    shown: tuple[str, ...]
    client: str
    ranks: tuple[int, ...] | None
    skip: str | None
    none_acceptable: bool
    comment: str
    seconds: float | None
    guidelines: str
    time: float
    supersedes: str | None = None


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """What reading a damaged store raises, as a RunError that says what to do."""
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise RunError(
            f"{path}: damaged, or of another program: {error}. Nothing was changed. Put a backup's {path.name} in its "
            f"place, or save what can be read: sqlite3 {path.name} .recover"
        ) from None


class InTheWay(Exception):
    """A judgement that arrived and contradicts what is there; `number` says which of them."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.number = number


def is_client(text: str) -> bool:
    """Whether a text can be the id that a page gave to a judgement."""
    return _CLIENT.fullmatch(text) is not None


class Store:
    """An open store. Threads take turns; processes too, at SQLite's own lock."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file, or make it. Raises RunError where it is no store, or cannot be written (read)."""
        self.path = path
        self._lock = threading.RLock()
        self._file: tuple[int, int] | None = None
        try:
            if read_only:
                self._db = _opened_to_read(path)
                self.journal = str(self._db.execute("PRAGMA journal_mode").fetchone()[0])
                self._db.execute("SELECT 1 FROM standing LIMIT 1")
                return
            self._db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            self._file = None if on_network(path) else _identity(path)  # some network ones number files anew
            self.journal = self._prepare()
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be used as the store of judgements: {error}") from None

    def _prepare(self) -> str:
        """Make what is missing, and say which journal is kept."""
        wanted = "delete" if on_network(self.path) else "wal"
        kept = self._db.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0]
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA recursive_triggers=ON")  # else REPLACE would remove a row without a word
        with self.writing() as db:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            for table in ("annotators", "guidelines", "words", "deals", "judgements"):
                for verb in ("UPDATE", "DELETE"):
                    db.execute(_APPEND_ONLY.format(table=table, verb=verb))
        return str(kept)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start; on disk when this returns, undone by an error."""
        with self._lock:
            self._require_in_place()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _require_in_place(self) -> None:
        """Raise RunError where the file is not where it was opened: SQLite would write to a copy that nobody finds."""
        if not self.path.exists() or self._file not in (None, _identity(self.path)):
            raise RunError(
                f"{self.path}: was moved, removed or replaced while it was open, so nothing was stored. Put it "
                "back, or stop what serves it and start it again on the folder's new place"
            )

    def read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file; what was committed is in it."""
        with self._lock:
            self._db.close()

    def add_annotator(self, name: str, group: str | None, time: float) -> None:
        """One more annotator, or another group for one who is there."""
        if self.annotators().get(name, False) != group:
            with self.writing() as db:
                db.execute("INSERT INTO annotators (name, grouped, time) VALUES (?, ?, ?)", (name, group, time))

    def annotators(self) -> dict[str, str | None]:
        """Name -> group, in the order in which they came; the latest group counts."""
        return dict(self.read("SELECT name, grouped FROM annotators ORDER BY id"))

    def add_guidelines(self, sha256: str, text: str, time: float) -> None:
        """Keep a text that annotators are shown."""
        if not self.read("SELECT 1 FROM guidelines WHERE sha256 = ?", sha256):
            with self.writing() as db:
                db.execute("INSERT OR IGNORE INTO guidelines VALUES (?, ?, ?)", (sha256, text, time))

    def add_words(self, found: Mapping[str, str], time: float) -> None:
        """Keep what the words of items are: item -> sha256. Those that are known as such are not kept twice."""
        known = self.words()
        new = [(item, sha256, time) for item, sha256 in found.items() if known.get(item) != sha256]
        if new:
            with self.writing() as db:
                db.executemany("INSERT INTO words (item, sha256, time) VALUES (?, ?, ?)", new)

    def words(self) -> dict[str, str]:
        """Item -> sha256 of its words, the latest that were kept; empty for a store that version 0.6.0 alone wrote."""
        if not self.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'words'"):
            return {}
        rows = self.read("SELECT item, sha256 FROM words ORDER BY id")
        return {_text(item): _text(sha256) for item, sha256 in rows}

    def add_deals(self, dealt: Sequence[tuple[str, str, tuple[str, ...], float]]) -> list[Deal]:
        """Give items to people: (annotator, item, shown, time) of each, none of them given before."""
        with self.writing() as db:
            made = []
            for annotator, item, shown, time in dealt:
                row = (annotator, item, json.dumps(shown), time)
                done = db.execute("INSERT INTO deals (annotator, item, shown, time) VALUES (?, ?, ?, ?)", row)
                made.append(Deal(int(done.lastrowid or 0), annotator, item, tuple(shown), time))
            return made

    def deals(self) -> list[Deal]:
        """All that was given to anybody, oldest first."""
        rows = self.read("SELECT id, annotator, item, shown, time FROM deals ORDER BY id")
        return [
            Deal(number, _text(who), _text(item), _names(shown), float(at)) for number, who, item, shown, at in rows
        ]

    def add(self, given: Given) -> Given | None:
        """Store a judgement; on disk when this returns None.

        Otherwise nothing was stored, and the judgement that stands in its way is returned: the very same (it was sent
        before), one under the same `client` that says something else, or a later one on the same deal.
        """
        with self.writing():
            before = self._one("client = ?", given.client)
            if before is not None:
                return before
            standing = self.standing(given.deal)
            if (standing.client if standing else None) != given.supersedes:
                return standing or given
            self._db.execute(f"INSERT INTO judgements ({_COLUMNS}) VALUES ({_MARKS})", _row(given))
            return None

    def take_in(self, arriving: Sequence[Arriving]) -> int:
        """Store judgements from elsewhere, all in one transaction; returns how many were new.

        What is there already, under its id or in what it says, is left as it is. Raises InTheWay, and stores nothing,
        where one says something else of an item that its person has judged.
        """
        stored = 0
        with self.writing() as db:
            groups = dict(self.read("SELECT name, grouped FROM annotators ORDER BY id"))
            for number, one in enumerate(arriving):
                if one.annotator not in groups or (one.group is not None and groups[one.annotator] != one.group):
                    row = (one.annotator, one.group, one.time)
                    db.execute("INSERT INTO annotators (name, grouped, time) VALUES (?, ?, ?)", row)
                    groups[one.annotator] = one.group
                found = self.read("SELECT id FROM deals WHERE annotator = ? AND item = ?", one.annotator, one.item)
                if found:
                    deal = int(found[0][0])
                else:
                    dealt = (one.annotator, one.item, json.dumps(one.shown), one.time)
                    done = db.execute("INSERT INTO deals (annotator, item, shown, time) VALUES (?, ?, ?, ?)", dealt)
                    deal = int(done.lastrowid or 0)
                stored += self._arrived(db, number, one, deal)
        return stored

    def _arrived(self, db: sqlite3.Connection, number: int, one: Arriving, deal: int) -> bool:
        """Whether the judgement was new; raises InTheWay."""
        given = Given(
            one.client, deal, one.ranks, one.skip, one.none_acceptable, one.comment, one.seconds, one.guidelines,
            one.time, one.supersedes,
        )  # fmt: skip
        before = self._one("client = ?", one.client)
        if before is not None:
            if before.deal == deal and before.said == given.said:
                return False
            raise InTheWay(number, f"its id {one.client!a} is that of a judgement which says something else")
        standing = self.standing(deal)
        if standing is not None and one.supersedes is None and standing.said == given.said:
            return False
        if (standing.client if standing else None) != one.supersedes:
            if standing is None:
                raise InTheWay(number, "it corrects a judgement that is not there")
            raise InTheWay(number, f"{one.annotator!a} has said something else of item {one.item!a}, and that stands")
        db.execute(f"INSERT INTO judgements ({_COLUMNS}) VALUES ({_MARKS})", _row(given))
        return True

    def standing(self, deal: int) -> Given | None:
        """What stands of a deal: its latest judgement."""
        rows = self.read(f"SELECT {_COLUMNS} FROM standing WHERE deal = ?", deal)
        return _given(rows[0]) if rows else None

    def judgements(self, all_of_them: bool = False) -> list[Given]:
        """What stands of every deal, oldest first; `all_of_them`: what was superseded, too."""
        table = "judgements" if all_of_them else "standing"
        return [_given(row) for row in self.read(f"SELECT {_COLUMNS} FROM {table} ORDER BY id")]

    def count(self) -> int:
        """How many judgements stand."""
        return int(self.read("SELECT count(*) FROM standing")[0][0])

    def backup(self, target: Path) -> None:
        """A whole copy of the store as it is now; safe while others write. Replaces `target`'s content."""
        copy = sqlite3.connect(target)
        try:
            with self._lock:
                self._db.backup(copy)
        finally:
            copy.close()

    def _one(self, where: str, *values: Any) -> Given | None:
        rows = self.read(f"SELECT {_COLUMNS} FROM judgements WHERE {where}", *values)
        return _given(rows[0]) if rows else None


def _opened_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, also while a server does, and from a place where nothing can be written."""
    for mode in ("mode=ro", "immutable=1"):
        uri = f"{path.resolve().as_uri()}?{mode}"
        db = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("SELECT 1 FROM sqlite_master")
            return db
        except sqlite3.OperationalError:
            db.close()
            if mode == "immutable=1" or wal_of(path).exists():
                raise
    raise AssertionError("not reached")


def wal_of(path: Path) -> Path:
    """The file of what was committed and is not in the store's own file yet."""
    return path.with_name(f"{path.name}-wal")


def on_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a path lies on a file system over the network or in user space, where a WAL file must not be.

    False where the machine does not say.
    """
    try:
        listed = [line.split(" ") for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return False
    here = path.resolve()
    known = [(Path(row[1].replace("\\040", " ")), row[2]) for row in listed if len(row) > 2]
    over = [(len(place.parts), at, kind) for at, (place, kind) in enumerate(known) if here.is_relative_to(place)]
    return bool(over) and max(over)[2].startswith(_NETWORK)  # of mounts over each other, the last one is seen


_FIELDS = ("client", "deal", "ranks", "skip", "none_acceptable", "comment", "seconds", "guidelines", "time",
           "supersedes")  # fmt: skip
_COLUMNS = ", ".join(_FIELDS)
_MARKS = ", ".join("?" * len(_FIELDS))


def _row(given: Given) -> tuple[Any, ...]:
    values = {**given.__dict__, "ranks": None if given.ranks is None else json.dumps(given.ranks)}
    return tuple(values[name] for name in _FIELDS)


def _given(row: tuple[Any, ...]) -> Given:
    values = dict(zip(_FIELDS, row, strict=True))
    ranks = None if values["ranks"] is None else json.loads(values["ranks"])
    if ranks is not None and not (isinstance(ranks, list) and all(type(rank) is int for rank in ranks)):
        raise ValueError(f"judgement {values['client']!r} has no ranks in its place of ranks")
    time = float(values["time"])
    datetime.fromtimestamp(time, UTC)  # a time that can be written down
    return Given(
        **{
            **values,
            "time": time,
            "ranks": None if ranks is None else tuple(ranks),
            "none_acceptable": bool(values["none_acceptable"]),
        }
    )


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in a text's place")
    return value


def _names(text: Any) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(f"{text!r} in the place of a list of names")
    return tuple(map(_text, found))
