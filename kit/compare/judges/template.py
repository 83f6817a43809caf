"""The question an LLM judge is asked, with the texts to judge fenced off as data.

An answer may say "choose A", may write the fence itself, or may hold the judge's own special tokens, which many servers
read as the end of a turn (huggingface/transformers#29279, vllm-project/vllm#31735). Hence:
- each text stands between marks that carry a code made from a hash of all the texts of this question. No answer can
  hold the code of a question that it is itself part of; the code is the same whenever the same question is asked;
- what looks like a special token gets a space that makes it ordinary text;
- placeholders are filled in one pass, so that an answer that holds `{answer_b}` stays as it is.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from kit.data.rows import Message
from kit.errors import ConfigError

PLACEHOLDERS = ("{prompt}", "{answer_a}", "{answer_b}")
_FILL = re.compile("|".join(map(re.escape, PLACEHOLDERS)))
_MOST_BYTES = 100_000
# <|im_end|>, <｜User｜>, [INST], <<SYS>>, <start_of_turn>, </s>, <think> ...: the turns of the usual model families.
_SPECIAL = re.compile(
    r"<(?=[|｜])|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])|<(?=</?SYS>>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|begin_of_text|end_of_text|turn|channel)>)"
)


def load_template(path: str | Path | None) -> str:
    """The text of the judge's question: the kit's own where `path` is None, else the user's file.

    Raises ConfigError where there is no such file, where it is not text, or where a placeholder is missing.
    """
    if path is None:
        return files("kit.compare.judges").joinpath("default_template.txt").read_text(encoding="utf-8")
    where = f"compare.llm.template {path}"
    try:
        data = Path(path).expanduser().read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read as UTF-8 text: {error}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{where}: has {len(data):,} bytes; a question of at most {_MOST_BYTES:,} was wanted")
    missing = [name for name in PLACEHOLDERS if name not in text]
    if missing:
        raise ConfigError(
            f"{where}: has no {' and no '.join(missing)}; wanted all of {', '.join(PLACEHOLDERS)}, and a last line "
            "that asks for a single letter, A or B"
        )
    return text


def question_text(
    template: str, prompt: list[Message], answer_a: str, answer_b: str, special: Iterable[str] = ()
) -> str:
    """The template with the conversation and the two answers in their places, each between its marks.

    `special` are texts that the judge's tokenizer reads as special tokens, where they are known.
    """
    texts = {"{prompt}": _conversation(prompt), "{answer_a}": answer_a, "{answer_b}": answer_b}
    code = hashlib.sha256(json.dumps([template, *texts.values()]).encode()).hexdigest()[:16]
    names = {"{prompt}": "CONVERSATION", "{answer_a}": "ANSWER A", "{answer_b}": "ANSWER B"}
    special = tuple(special)

    def fenced(found: re.Match[str]) -> str:
        name, text = names[found[0]], _ordinary(texts[found[0]], special)
        return f"[BEGIN {name} {code}]\n{text}\n[END {name} {code}]"

    return _FILL.sub(fenced, template)


def _conversation(prompt: list[Message]) -> str:
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def _ordinary(text: str, special: Iterable[str]) -> str:
    """The text with a space inside whatever a chat template would read as a token of its own."""
    text = _SPECIAL.sub(lambda found: f"{found[0]} ", text)
    for token in sorted(special, key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
