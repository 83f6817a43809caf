"""Conversations as the chat template writes them, at the least cost: data have hundreds of thousands of them."""

import re
from collections.abc import Callable
from typing import Any

from kit.data.rows import Message

Render = Callable[[list[Message], bool], str]  # messages, and whether the assistant's next answer is opened

# Around what is learnt, of which only tokens would tell. Jinja's own `with` writes the same, without a call.
_MARKED = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
_USER, _ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
_PROBES = (([_USER], True), ([_USER, _ASSISTANT], False))


def renderer(tokenizer: Any) -> Render:
    """`tokenizer.apply_chat_template` for messages of plain text, as text.

    Half of that method's time goes into copies and checks of what may stand in messages besides text. Where the
    compiled template can be had and writes the same, it is asked itself.
    """
    from transformers import PreTrainedTokenizerBase

    def plain(messages: list[Message], opens: bool) -> str:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=opens, tokenize=False)

    if type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return plain
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = _compile_jinja_template(_MARKED.sub(r"\1\2with\3", tokenizer.get_chat_template()))
        known = {**template.globals, **tokenizer.special_tokens_map, "tools": None, "documents": None}

        def direct(messages: list[Message], opens: bool) -> str:
            # What `template.render` does, without a copy of all globals each time.
            values = known | {"messages": messages, "add_generation_prompt": opens}
            return "".join(template.root_render_func(template.new_context(values, shared=True)))

        same = all(direct(*probe) == plain(*probe) for probe in _PROBES)
    except Exception:  # another version of the library: its own names are no promise
        return plain
    return direct if same else plain
