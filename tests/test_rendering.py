"""Conversations as the chat template writes them: what the library writes, at half its cost."""

import pytest
from jinja2 import TemplateError
from toy_tokenizers import CHATML, byte_level
from transformers import PreTrainedTokenizerBase

from kit.demo.base import build_tokenizer
from kit.models.rendering import renderer
from kit.models.tokenizer import DEFAULT_CHAT_TEMPLATE

USER, ASSISTANT = {"role": "user", "content": "Héllo\n{{ x }} "}, {"role": "assistant", "content": "<b>Hi</b> & 😀"}
SETS_NAMES = "{% set ns = namespace(a='') %}{% for m in messages %}{% set ns.a = m.role %}{% endfor %}{{ ns.a }}"
READS_GLOBALS = "{{ range(3) | join }}{{ bos_token }}{% if tools is not none %}tools{% endif %}" + CHATML
# What is learnt is marked; names that are set inside a mark mean nothing after it.
MARKED = (
    "{% set x = 'out' %}{% for m in messages %} {{- m.role }} \n"
    "{%- generation -%} {% set x = m.content %}{{ x }}{{ loop.index }}{{ loop.last }} {% endgeneration %} {{ x }} \n"
    "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
)
IN_WORDS = "{{ '{% generation %}' }}" + CHATML


def tokenizer(template):
    return byte_level("<|im_start|>", "<pad>", eos_token="<|im_end|>", bos_token="<s>", chat_template=template)


@pytest.mark.parametrize("template", [CHATML, DEFAULT_CHAT_TEMPLATE, SETS_NAMES, READS_GLOBALS, MARKED])
class TestRendered:
    @pytest.mark.parametrize("opens", [True, False])
    def test_is_what_the_library_writes(self, template, opens):
        core = tokenizer(template)
        for messages in ([USER], [USER, ASSISTANT], [USER, ASSISTANT, USER]):
            wanted = core.apply_chat_template(messages, add_generation_prompt=opens, tokenize=False)
            assert renderer(core)(messages, opens) == wanted

    def test_leaves_nothing_behind_for_the_next(self, template):
        render = renderer(tokenizer(template))
        first = render([USER], True)
        render([USER, ASSISTANT], False)
        assert render([USER], True) == first

    def test_asks_the_template_itself(self, template, monkeypatch):
        render = renderer(tokenizer(template))
        monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", None)
        assert render([USER], True)


class TestWhatCannotBeAskedItself:
    def test_is_a_template_that_writes_a_mark_as_words(self):
        core = tokenizer(IN_WORDS)
        assert renderer(core)([USER], True) == core.apply_chat_template(
            [USER], add_generation_prompt=True, tokenize=False
        )

    def test_of_the_demo_is_nothing(self, monkeypatch):
        render = renderer(build_tokenizer())
        monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", None)
        assert render([USER], True)

    def test_is_a_tokenizer_with_a_way_of_its_own(self):
        core = tokenizer(CHATML)

        class Own(type(core)):
            def apply_chat_template(self, messages, **_):
                return "mine"

        core.__class__ = Own
        assert renderer(core)([USER], True) == "mine"

    def test_is_a_library_without_the_name(self, monkeypatch):
        monkeypatch.delattr("transformers.utils.chat_template_utils._compile_jinja_template")
        monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", lambda *_, **__: "the library's")
        assert renderer(tokenizer(CHATML))([USER], True) == "the library's"

    def test_a_template_that_refuses_says_so_either_way(self):
        with pytest.raises(TemplateError, match="no"):
            renderer(tokenizer("{{ raise_exception('no') }}"))([USER], True)
