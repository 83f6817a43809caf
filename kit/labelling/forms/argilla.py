"""Argilla's records, as the SDK 2.8.0 writes and reads them (`dataset.records.to_json`, `Record.from_dict`).

A record is an item; a RankingQuestion's options are the names of the record's fields that hold the answers, and its
value is [{"value": option, "rank": number}, ...]. What its server sends, {"items": [...]} of
`/api/v1/datasets/ID/records?include=responses`, is read, too. The SDK drops the ranks of what it fetched and keeps the
options, in no order that says anything (`UserResponse.__ranking_from_model_value`): such a file is refused.

It has no place for the order shown, seconds, groups, the guidelines' hash and ids; `to_json` has none for times.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kit.data.files import Row
from kit.data.formats.head import is_list
from kit.data.problems import RowProblem, type_name
from kit.feedback.export import time_of
from kit.labelling.forms.said import Items, Said, comment_of, prompt_text
from kit.labels.project import Project

KEYS = {"fields", "responses"}
_PEOPLE = uuid.uuid5(uuid.NAMESPACE_URL, "rlhf-kit/annotator")
_NO_RANKS = (
    "the ranking {name!a} holds options without ranks: Argilla's SDK leaves them out, so nobody knows what was put "
    "first. Fetch the records with their ranks from its server: GET /api/v1/datasets/ID/records?include=responses"
)
DRAFTS = "left out a draft response"


def records(project: Project, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All items as records, those that nobody judged among them, so that work can go on there."""
    by: dict[str, list[Mapping[str, Any]]] = {name: [] for name in project.items}
    for row in rows:
        by[row["item"]].append(row)
    several = len({len(item.answers) for item in project.items.values()}) > 1
    made = []
    for item in project.items.values():
        fields = [f"answer_{number}" for number in range(1, len(item.answers) + 1)]
        ranking = f"ranking_{len(fields)}" if several else "ranking"
        responses: dict[str, list[dict[str, Any]]] = {}
        people = {}
        for row in by[item.name]:
            person = str(uuid.uuid5(_PEOPLE, row["annotator"]))
            people[person] = row["annotator"]
            whose = {"user_id": person, "status": "discarded" if row["ranks"] is None else "submitted"}
            told: dict[str, Any] = {"skip": row["skip"], "comment": row["comment"] or None}
            if row["ranks"] is not None:
                told[ranking] = [{"value": f, "rank": rank} for f, rank in zip(fields, row["ranks"], strict=True)]
            if row["none_acceptable"]:
                told["acceptable"] = "none"
            for question, value in told.items():
                if value is not None:
                    responses.setdefault(question, []).append({"value": value, **whose})
        made.append(
            {
                "id": item.name,
                "fields": {"prompt": prompt_text(item.prompt)}
                | {field: answer.text for field, answer in zip(fields, item.answers, strict=True)},
                "metadata": {
                    "item": item.name,
                    "answers": [answer.name for answer in item.answers],
                    "annotators": [f"{person}={name}" for person, name in people.items()],
                },
                "suggestions": {},
                "responses": responses,
                "vectors": {},
                "status": "pending",
                "_server_id": None,
            }
        )
    return made


def said(row: Row, items: Items, remarks: Counter[str]) -> Iterator[Said]:
    """What each person said in a record."""
    values = row.values
    fields, metadata = values.get("fields"), values.get("metadata")
    if not isinstance(fields, dict):
        raise RowProblem(f"fields: wanted an object; found {type_name(fields)}")
    metadata = metadata if isinstance(metadata, dict) else {}
    listed = metadata.get("annotators")
    listed = [listed] if isinstance(listed, str) else listed  # Argilla gives one term back without its list
    pairs: Sequence[Any] = listed if isinstance(listed, (list, tuple)) else ()
    people = dict(pair.split("=", 1) for pair in pairs if isinstance(pair, str) and "=" in pair)
    answers = metadata.get("answers")
    own = {f"answer_{n}": str(one) for n, one in enumerate(answers if isinstance(answers, list) else (), 1)}
    name = metadata.get("item") or values.get("external_id") or values.get("id")
    for person, given in _by_person(values.get("responses")).items():
        if given["status"] == "draft":
            remarks[DRAFTS] += 1
            continue
        lists = [key for key, value in given["values"].items() if is_list(value)]
        ranking = next((key for key in lists if any(isinstance(v, dict) for v in given["values"][key])), None)
        ranking = ranking or next(iter(lists), None)
        skipped = given["status"] == "discarded" or (ranking is None and "skip" in given["values"])
        if ranking is None and not skipped:
            raise RowProblem(f"the response of {person[:40]!a} holds no ranking")
        options, ranks = _ranking(ranking, given["values"][ranking]) if ranking and not skipped else ([], None)
        if skipped:
            options = [field for field in fields if field not in ("prompt", "instruction", "question")]
        texts = [fields.get(option) for option in options]
        if not all(isinstance(text, str) for text in texts):
            raise RowProblem(f"the options {', '.join(options)[:80]!a} are not the fields that hold the answers")
        prompt = next((fields[key] for key in ("prompt", "instruction", "question") if key in fields), None)
        if isinstance(prompt, (list, tuple)):  # a ChatField
            if not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in prompt):
                raise RowProblem("the field of the prompt: wanted a text, or a list of turns with role and content")
            prompt = prompt_text([{"role": str(turn["role"]), "content": str(turn["content"])} for turn in prompt])
        found = items.find(name, prompt, [own.get(option, option) for option in options], [str(t) for t in texts])
        yield Said(
            where=row.where,
            annotator=people.get(person, person),
            item=found.item,
            ranks=None if ranks is None else found.ranks(ranks),
            skip=comment_of(given["values"].get("skip"), "skip") or "discarded in Argilla" if skipped else None,
            none_acceptable=given["values"].get("acceptable") == "none",
            comment=comment_of(given["values"].get("comment")),
            time=time_of(given["time"], "updated_at"),
        )


def _by_person(responses: Any) -> dict[str, dict[str, Any]]:
    """User id -> status, {question: value} and time: of the SDK's lists by question, or of the server's by user."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(responses, dict):
        for question, given in responses.items():
            for one in given if is_list(given) else ():
                if not isinstance(one, dict) or not one.get("user_id"):
                    raise RowProblem(f"responses.{question}: wanted objects with a value and a user_id")
                person = found.setdefault(str(one["user_id"]), {"status": None, "values": {}, "time": None})
                person["status"] = one.get("status") or person["status"]
                person["values"][question] = one.get("value")
    elif is_list(responses):
        for one in responses:
            if not isinstance(one, dict) or not one.get("user_id"):
                raise RowProblem("responses: wanted objects with values and a user_id")
            told = one.get("values")
            answers = {
                question: value.get("value") if isinstance(value, Mapping) else value
                for question, value in (told if isinstance(told, dict) else {}).items()
            }
            time = one.get("updated_at") or one.get("inserted_at")
            found[str(one["user_id"])] = {"status": one.get("status"), "values": answers, "time": time}
    elif responses is not None:
        raise RowProblem(f"responses: wanted an object or a list; found {type_name(responses)}")
    return found


def _ranking(name: str, value: Any) -> tuple[list[str], list[Any]]:
    """The options and their ranks."""
    if not all(isinstance(one, dict) and one.get("rank") is not None and "value" in one for one in value):
        raise RowProblem(_NO_RANKS.format(name=name))
    return [str(one["value"]) for one in value], [one["rank"] for one in value]
