"""Words read from memory: the ids are those that the tokenizer gives of the whole text, or it is asked itself."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from toy_tokenizers import CHATML, byte_level, character_level, word_level

from kit.demo.base import build_tokenizer
from kit.models import words
from kit.models.codec import Codec
from kit.models.words import Words, added_tokens, can_be_cut

LLAMA_3, QWEN = sorted(words._PATTERNS, key=len, reverse=True)
# What stands beside a cut: white space of all kinds, marks that join a letter, contractions, digits, tokens.
PARTS = [
    *" \t\n\r\v\f\x1c\x85\u00a0\u2000\u2003\u3000\u200b\ufeff", *"aZé字٣²7", "e\u0301", "\u0301", "'s", "'", "-", "...",
    "the", " the", " cat", "<|end|>", "<|im_end|>", "<|", "😀", "👩\u200d👧", "\u1e9b\u0323", "|",
]  # fmt: skip
TEXTS = st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), max_size=5)


def core(*steps: pre_tokenizers.PreTokenizer, normalizer=None, **options) -> Tokenizer:
    """A byte-level BPE that parts texts by these steps."""
    made = byte_level("<|end|>", "<|im_end|>", vocabulary=320, eos_token="<|end|>").backend_tokenizer
    made.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    if normalizer:
        made.normalizer = normalizer
    for name, value in options.items():
        setattr(made.model, name, value)
    return made


def split(pattern: str, **options) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(pattern), **{"behavior": "isolated", **options})


def asked(tokenizer: Tokenizer):
    return lambda texts: [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUT = {
    "gpt-2": core(GPT_2),
    "smollm": core(pre_tokenizers.Digits(individual_digits=True), GPT_2),
    "llama-3": core(split(LLAMA_3), BYTES, ignore_merges=True),
    "qwen": core(split(QWEN), BYTES, normalizer=normalizers.NFC()),
    "demo": build_tokenizer().backend_tokenizer,
}


def by_words(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return lists(Words(asked(tokenizer), added_tokens(tokenizer)).ids(texts))


def lists(found) -> list[list[int]]:
    return [ids.tolist() for ids in found]


def with_tokens(*tokens: AddedToken) -> Tokenizer:
    made = core(split(QWEN), BYTES, normalizer=normalizers.NFC())
    made.add_special_tokens([*tokens])
    return made


OVERLAPPING = with_tokens(
    *(AddedToken(text, normalized=False) for text in ("<|end", "<|end|>a", "d|>", "ab", "<|end|>ab")),
    AddedToken("be", normalized=True), AddedToken("\u00e9|", normalized=True),
)  # fmt: skip


class TestWords:
    @pytest.mark.parametrize("name", CUT)
    @given(texts=TEXTS)
    @example(
        [
            "the cat",
            "",
            " the",
            " ",
            "a  the",
            "a \u0301e",
            "x é",
            "a\n the",
            "1 the 's the",
            "\u2000 a b <|end|> the 3",
        ]
    )
    @settings(max_examples=300)
    def test_give_the_ids_of_the_whole_text(self, name, texts):
        assert by_words(CUT[name], texts) == asked(CUT[name])(texts)

    @pytest.mark.parametrize("name", CUT)
    @given(texts=st.lists(st.text()))
    def test_do_so_over_any_text(self, name, texts):
        assert by_words(CUT[name], texts) == asked(CUT[name])(texts)

    @given(text=st.text("<|end>ab e\u0301", max_size=30))
    def test_do_so_where_one_token_holds_another_or_begins_inside_it(self, text):
        assert by_words(OVERLAPPING, [text]) == asked(OVERLAPPING)([text])

    def test_are_the_same_beside_an_end_of_turn(self):
        seen = []
        read = Words(lambda texts: seen.extend(texts) or [[len(text)] for text in texts], ["<|end|>", "<|end|>+"])
        read.ids(["the cat<|end|>", "cat<|end|>the<|end|>+cat", "<|end|><|end|>"])
        assert sorted(seen) == [" cat", "<|end|>", "<|end|>+", "cat", "the"]

    def test_are_asked_for_once(self):
        seen = []
        read = Words(lambda texts: seen.extend(texts) or [[len(text)] for text in texts])
        assert read.ids(["the cat", "the cat and the dog"]) == read.ids(["the cat", "the cat and the dog"])
        assert sorted(seen) == [" and", " cat", " dog", " the", "the"]

    def test_are_forgotten_where_they_are_too_many(self, monkeypatch):
        monkeypatch.setattr(words, "_MOST_KNOWN", 3)
        read = Words(asked(CUT["qwen"]))
        for text in ("the cat and the dog", "a cat", "a dog", "the cat and the dog"):
            assert lists(read.ids([text])) == asked(CUT["qwen"])([text])
            assert len(read._known) <= 5


class TestWhatCanBeCut:
    @pytest.mark.parametrize("name", CUT)
    def test_a_tokenizer_that_begins_a_part_before_every_word(self, name):
        assert can_be_cut(CUT[name], asked(CUT[name]))

    @pytest.mark.parametrize(
        "other",
        [
            core(pre_tokenizers.ByteLevel(add_prefix_space=True)),
            core(BYTES),
            core(split(r"\s+"), BYTES),
            core(split(QWEN, invert=True), BYTES),
            core(split(QWEN, behavior="merged_with_next"), BYTES),
            core(pre_tokenizers.Metaspace()),
            core(GPT_2, normalizer=normalizers.NFKC()),
            core(GPT_2, normalizer=normalizers.Lowercase()),
            core(GPT_2, dropout=0.5),
            character_level(eos_token="<|end|>").backend_tokenizer,
            word_level(eos_token="<|end|>").backend_tokenizer,
            Tokenizer(models.Unigram([("a", 0.0)], unk_id=0)),
        ],
    )
    def test_no_other_one(self, other):
        assert not can_be_cut(other, asked(other))

    @pytest.mark.parametrize(
        "token",
        [
            AddedToken("<|x|>", rstrip=True), AddedToken("<|x|>", lstrip=True), AddedToken("x", single_word=True),
            "<|a turn|>", " the", "the ",
        ],
    )  # fmt: skip
    def test_none_whose_tokens_reach_over_a_cut(self, token):
        other = core(GPT_2)
        other.add_tokens([token])
        assert not can_be_cut(other, asked(other))

    def test_none_whose_reading_is_not_all_rusts(self):
        class Own(type(byte_level(eos_token="<|end|>"))):
            def _encode_plus(self, *args, **options):
                return super()._encode_plus(*args, **options)

        plain = byte_level(eos_token="<|im_end|>", chat_template=CHATML)
        own = Own(tokenizer_object=plain.backend_tokenizer, eos_token="<|im_end|>", chat_template=CHATML)
        assert Codec(own).waits_for_rust and not Codec(plain).waits_for_rust
