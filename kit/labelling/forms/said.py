"""A judgement as a file tells it, and the item of a project that it is of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kit.data.problems import RowProblem, type_name
from kit.feedback.export import is_number
from kit.labels.project import Item, Message, Project

MOST_COMMENT = 4_000  # characters, as on the page


@dataclass(frozen=True)
class Said:
    """What a person said of an item. `ranks` and `shown` go by the item's answers; None and () are unknown."""

    where: str
    annotator: str
    item: Item
    ranks: tuple[int, ...] | None
    skip: str | None = None
    none_acceptable: bool = False
    comment: str = ""
    shown: tuple[str, ...] = ()
    seconds: float | None = None
    time: float | None = None  # seconds since 1970
    group: str | None = None
    guidelines: str = ""  # sha256
    id: str | None = None
    supersedes: str | None = None


class Items:
    """A project's items, to be found by name, or by the words of their prompt and answers."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._by_words: dict[tuple[str, tuple[str, ...]], list[Item]] = {}
        for item in project.items.values():
            self._by_words.setdefault(_words(prompt_text(item.prompt), [a.text for a in item.answers]), []).append(item)

    def find(self, name: Any, prompt: Any, names: Sequence[str], texts: Sequence[str] | None) -> "Found":
        """The item of this name, or of these words; RowProblem where the project has none, or one of other words.

        `names` and `texts` are of the answers in the file's order; texts None: the file has names alone.
        """
        item = self.project.items.get(str(name)) if name is not None else None
        if item is None and texts is not None and isinstance(prompt, str):
            alike = self._by_words.get(_words(prompt, texts), [])
            plain = [one for one in alike if one.repeat_of is None] or alike
            item = plain[0] if len(plain) == 1 else None
        if item is None:
            told = f"item {str(name)[:60]!a}" if name is not None else "a prompt and answers"
            raise RowProblem(f"{told}: the project has no such item, by name or by the words of prompt and answers")
        own_names, own_texts = [a.name for a in item.answers], [_plain(a.text) for a in item.answers]
        if sorted(names) == sorted(own_names):
            order = [own_names.index(one) for one in names]
            same = texts is None or [_plain(text) for text in texts] == [own_texts[at] for at in order]
        else:
            told_texts = [_plain(text) for text in texts or ()]
            same = sorted(told_texts) == sorted(own_texts) and len(set(own_texts)) == len(own_texts)
            order = [own_texts.index(text) for text in told_texts] if same else []
        if not same:
            raise RowProblem(f"item {item.name!a}: its answers are others in the project {self.project.name!a}")
        return Found(item, tuple(names), tuple(order))


@dataclass(frozen=True)
class Found:
    """An item, and for each of the file's answers its place among the item's."""

    item: Item
    names: tuple[str, ...]
    order: tuple[int, ...]

    def ranks(self, told: Any) -> tuple[int, ...]:
        """Ranks in the file's order as ranks in the item's, without gaps: 1, 3, 3 is 1, 2, 2. RowProblem."""
        if not isinstance(told, (list, tuple)) or len(told) != len(self.order):
            raise RowProblem(f"ranks: wanted {len(self.order)}, one an answer; found {type_name(told)}")
        for rank in told:
            if not is_number(rank):
                raise RowProblem(f"ranks: wanted a number for each answer, a finite one; found {type_name(rank)}")
        dense = {rank: place for place, rank in enumerate(sorted(set(told)), 1)}
        ranks = [0] * len(self.order)
        for at, rank in zip(self.order, told, strict=True):
            ranks[at] = dense[rank]
        return tuple(ranks)

    def shown(self, told: Any) -> tuple[str, ...]:
        """Names in the order of the page, as the project has them; () where the file does not say. RowProblem."""
        if told is None:
            return ()
        if not isinstance(told, (list, tuple)) or sorted(map(str, told)) != sorted(self.names):
            raise RowProblem("shown: wanted the names of the answers in another order; found other names")
        own = dict(zip(self.names, (self.item.answers[at].name for at in self.order), strict=True))
        return tuple(own[str(one)] for one in told)


def prompt_text(messages: Sequence[Message]) -> str:
    """A conversation as one text: the words alone where it is one question."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def comment_of(value: Any, what: str = "comment") -> str:
    """A text that people wrote, as long as on the page at most; RowProblem for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MOST_COMMENT:
        raise RowProblem(f"{what}: wanted a text of {MOST_COMMENT:,} characters at most; found {type_name(value)}")
    return value.encode("utf-8", "replace").decode()


def seconds_of(value: Any, what: str = "seconds") -> float | None:
    """A time that something took; RowProblem for what is none."""
    if value is None:
        return None
    if not is_number(value) or value < 0:
        raise RowProblem(f"{what}: wanted a number from 0 up, or null; found {str(value)[:30]!a}")
    return float(value)


def _words(prompt: str, texts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    return _plain(prompt), tuple(sorted(map(_plain, texts)))


def _plain(text: str) -> str:
    """Words without what another program may do to the space between them."""
    return " ".join(text.split())
