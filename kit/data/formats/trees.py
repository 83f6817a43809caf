"""Conversation trees whose sibling replies are ranked: Open Assistant's, nested or one message a row."""

from collections.abc import Iterator
from typing import Any

from kit.data import catalogue
from kit.data.formats.cells import Values, number
from kit.data.formats.form import OpinionForm
from kit.data.formats.head import Head, is_object, word
from kit.data.formats.lists import direction
from kit.data.opinions import Answer, Opinion
from kit.data.problems import RowProblem, type_name
from kit.data.rows import Message
from kit.data.turns import Remarks, read_messages, read_text


def trees_form(head: Head, best: str) -> OpinionForm | None:
    """The form of Open Assistant's exports: a tree a row, or a message a row with its parent's id."""
    sign, words = direction(True, best)
    if head.mostly("prompt", lambda value: is_object(value) and "replies" in value):

        def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
            root = values.get("prompt")
            if not isinstance(root, dict):
                raise RowProblem(catalogue.NO_TREE.format(found=type_name(root)))
            return list(_opinions(root, where, sign, remarks))

        return OpinionForm(f"OASST trees: sibling replies by rank ({words})", read, ranked=True, generated=True)
    if {"message_id", "parent_id", "text", "role"} <= head.columns:
        return _flat(sign, words)
    return None


def _flat(sign: int, words: str) -> OpinionForm:
    """Messages of which each names its parent: they are gathered, and become trees once all were read."""
    nodes: dict[str, tuple[Values, str]] = {}
    seen: list[Remarks] = []

    def read(values: Values, where: str, remarks: Remarks) -> list[Opinion]:
        name = values.get("message_id")
        if not isinstance(name, str) or not name:
            raise RowProblem(catalogue.NO_MESSAGE_ID.format(found=type_name(name)))
        if name in nodes:
            raise RowProblem(catalogue.MESSAGE_TWICE.format(where=nodes[name][1]))
        _turn(values, "text", remarks)  # a problem of this row is told as this row's
        number(values.get("rank"), "rank", remarks)
        nodes[name] = (values | {"replies": []}, where)
        seen[:] = [remarks]
        return []

    def rest() -> Iterator[Opinion]:
        roots = []
        for values, where in nodes.values():
            parent = values.get("parent_id")
            if isinstance(parent, str) and parent in nodes:
                nodes[parent][0]["replies"].append(values)
            elif parent:
                seen[0][catalogue.PARENT_MISSING] += 1
            else:
                roots.append((values, where))
        for root, where in roots:
            yield from _opinions(root, where, sign, seen[0], told=True)

    return OpinionForm(f"OASST messages: sibling replies by rank ({words})", read, rest, ranked=True, generated=True)


def _opinions(root: Values, where: str, sign: int, remarks: Remarks, told: bool = False) -> Iterator[Opinion]:
    """The assistant's replies to each turn of the user, depth first; deleted and refused messages are left out.

    `told` keeps what is put right from being counted a second time.
    """
    notes: Remarks = remarks if not told else type(remarks)()
    waiting: list[tuple[Any, list[Message], str]] = [(root, [], "prompt")]
    while waiting:
        node, before, path = waiting.pop()
        if not isinstance(node, dict):
            raise RowProblem(catalogue.NO_MESSAGE.format(what=path, found=type_name(node)))
        if _is_out(node):
            remarks[catalogue.LEFT_OUT] += 1
            continue
        turns = [*before, _turn(node, f"{path}.text", notes)]
        replies = node.get("replies") or []
        if not isinstance(replies, (list, tuple)):
            raise RowProblem(catalogue.NO_LIST.format(name=f"{path}.replies", found=type_name(replies)))
        waiting += reversed([(reply, turns, f"{path}.replies[{n}]") for n, reply in enumerate(replies)])
        if turns[-1]["role"] != "user":
            continue
        prompt = read_messages(turns, path, notes)
        answers = []
        for index, reply in enumerate(replies):
            if not isinstance(reply, dict) or _is_out(reply):
                continue  # told, or left out, when its turn comes
            turn = _turn(reply, f"{path}.replies[{index}].text", type(remarks)())
            if turn["role"] == "assistant":
                rank = number(reply.get("rank"), f"{path}.replies[{index}].rank", notes)
                answers.append(Answer(turn["content"], None if rank is None else sign * rank))
        if answers:
            yield Opinion(prompt, tuple(answers), where)


def _turn(node: Values, what: str, remarks: Remarks) -> Message:
    role = node.get("role")
    if not isinstance(role, str):
        raise RowProblem(catalogue.NO_ROLE.format(what=what, found=type_name(role)))
    text = read_text(node.get("text"), what)
    known = {"prompter": "user", "user": "user", "human": "user", "assistant": "assistant", "bot": "assistant"}
    if role.lower() not in known:
        raise RowProblem(catalogue.UNKNOWN_ROLE.format(what=what, found=role, known=", ".join(known)))
    return {"role": known[role.lower()], "content": text}


def _is_out(node: Values) -> bool:
    return word(node.get("deleted")) == "true" or word(node.get("review_result")) == "false"
