"""Label Studio's tasks with annotations, as its JSON export writes them and its import reads them (1.23; task format
https://labelstud.io/guide/task_format, ranking https://labelstud.io/tags/ranker).

A task is an item, an annotation what one person said. A Ranker without buckets gives {its name: [ids in order]}, which
has no ties; with buckets called 1, 2, ... their numbers are the ranks. The kit writes buckets; docs/labels.md has the
labelling configuration.

It has no place for the order shown, groups, the guidelines' hash and ids. It takes annotations only of people whose
accounts it has: annotators' names are written as their e-mail addresses.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from kit.data.files import Row
from kit.data.formats.head import is_list
from kit.data.problems import RowProblem, type_name
from kit.feedback.export import time_of
from kit.labelling.forms.said import Found, Items, Said, comment_of, prompt_text, seconds_of
from kit.labels.project import Project

KEYS = {"data", "annotations"}
_PROMPTS = ("prompt", "question", "instruction", "text")
_TEXTS = ("body", "text", "html", "title")
_SKIPPED = "skipped in Label Studio"
_BUCKET = re.compile(r"[0-9]{1,9}")
EMPTY = "left out an annotation without a ranking"


def tasks(project: Project, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All items as tasks, those that nobody judged among them, so that work can go on there."""
    by: dict[str, list[Mapping[str, Any]]] = {name: [] for name in project.items}
    for row in rows:
        by[row["item"]].append(row)
    made, count = [], 0
    for number, item in enumerate(project.items.values(), 1):
        annotations = []
        for row in by[item.name]:
            count += 1
            annotations.append(_annotation(row, number, count))
        answers = [{"id": answer.name, "title": "", "body": answer.text} for answer in item.answers]
        data = {"item": item.name, "prompt": prompt_text(item.prompt), "answers": answers}
        made.append({"id": number, "data": data, "annotations": annotations, "predictions": []})
    return made


def _annotation(row: Mapping[str, Any], task: int, number: int) -> dict[str, Any]:
    result = []

    def add(name: str, to: str, kind: str, value: dict[str, Any]) -> None:
        made = {"id": f"{name}-{number}", "from_name": name, "to_name": to, "type": kind, "origin": "manual"}
        result.append({**made, "value": value})

    if row["ranks"] is not None:
        buckets: dict[str, list[str]] = {}
        for rank, name in sorted(zip(row["ranks"], row["answers"], strict=True)):
            buckets.setdefault(str(rank), []).append(name)
        add("rank", "answers", "ranker", {"ranker": buckets})
    if row["none_acceptable"]:
        add("acceptable", "prompt", "choices", {"choices": ["none"]})
    for name in ("comment", "skip"):
        if row[name]:
            add(name, "prompt", "textarea", {"text": [row[name]]})
    time = datetime.fromisoformat(row["time"]).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "id": number,
        "completed_by": {"email": row["annotator"]},
        "result": result,
        "was_cancelled": row["ranks"] is None,
        "ground_truth": False,
        "created_at": time,
        "updated_at": time,
        "lead_time": row["seconds"],
        "task": task,
    }


def said(row: Row, items: Items, remarks: Counter[str]) -> Iterator[Said]:
    """What each person said in a task."""
    data, annotations = row.values.get("data"), row.values.get("annotations")
    if not isinstance(data, dict):
        raise RowProblem(f"data: wanted an object; found {type_name(data)}")
    if not is_list(annotations):
        raise RowProblem(f"annotations: wanted a list; found {type_name(annotations)}")
    for one in annotations or ():
        if not isinstance(one, dict) or not is_list(one.get("result")):
            raise RowProblem("annotations: wanted objects, each with a list result")
        results = [each for each in one["result"] if isinstance(each, dict) and isinstance(each.get("value"), dict)]
        ranker = next((each for each in results if each.get("type") == "ranker"), None)
        skipped = one.get("was_cancelled") is True
        if ranker is None and not skipped:
            remarks[EMPTY] += 1
            continue
        found = _item(data, items)
        choices = _value(results, "acceptable", "choices")
        yield Said(
            where=row.where,
            annotator=_person(one.get("completed_by")),
            item=found.item,
            ranks=None if skipped or ranker is None else found.ranks(_ranks(ranker, found)),
            skip=(comment_of(_value(results, "skip", "text"), "skip") or "skipped in Label Studio")
            if skipped
            else None,
            none_acceptable=choices == "none",
            comment=comment_of(_value(results, "comment", "text")),
            seconds=seconds_of(one.get("lead_time"), "lead_time"),
            time=time_of(one.get("created_at"), "created_at"),
        )


def _item(data: Mapping[str, Any], items: Items) -> Found:
    listed = next(
        (v for v in data.values() if is_list(v) and v and all(isinstance(e, dict) and "id" in e for e in v)), None
    )
    if listed is None:
        raise RowProblem("data: wanted a list of answers, each with an id")
    texts = [next((each[key] for key in _TEXTS if isinstance(each.get(key), str) and each[key]), "") for each in listed]
    prompt = next((data[key] for key in _PROMPTS if isinstance(data.get(key), str)), None)
    return items.find(data.get("item"), prompt, [str(each["id"]) for each in listed], texts)


def _ranks(ranker: Mapping[str, Any], found: Found) -> list[Any]:
    """A rank for each of the task's answers: its bucket's number, or its place in the one order."""
    buckets = ranker["value"].get("ranker")
    if not isinstance(buckets, dict) or not all(map(is_list, buckets.values())):
        raise RowProblem(f"ranker: wanted an object of lists of ids; found {type_name(buckets)}")
    if list(buckets) == [ranker.get("from_name")]:
        (order,) = buckets.values()
        ranks = {str(name): place for place, name in enumerate(order, 1)}
    elif all(_BUCKET.fullmatch(str(name)) for name in buckets):
        ranks = {str(name): int(rank) for rank, names in buckets.items() for name in names}
    else:
        raise RowProblem(
            f"ranker: the buckets {', '.join(map(str, buckets))[:80]!a} say no order; call them 1, 2, ..., 1 the best"
        )
    if sorted(ranks) != sorted(found.names):
        raise RowProblem("ranker: wanted each of the task's answers once; found others, or not all")
    return [ranks[name] for name in found.names]


def _value(results: list[dict[str, Any]], name: str, key: str) -> Any:
    """What a control tag of this name holds: a text, or the texts of a list joined."""
    value = next((each["value"].get(key) for each in results if each.get("from_name") == name), None)
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _person(value: Any) -> str:
    """Who completed an annotation: an e-mail address, or the number of an account."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    if value in (None, ""):
        raise RowProblem("completed_by: nobody is named; export with the annotators' accounts")
    return f"account {value}" if isinstance(value, int) else str(value)
