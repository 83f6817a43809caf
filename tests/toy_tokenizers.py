"""Small tokenizers of the kinds that people's models have, made in code."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["Hello, world! It's 3:45 p.m., isn't it? User: Assistant: the cat and the dog, the cat and the dog"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(*special: str, vocabulary: int = 300, **tokens: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2 and Llama 3 have; `tokens` are its eos_token, pad_token, bos_token, chat_template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([*special, *(text for key, text in tokens.items() if key.endswith("_token"))]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=names, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **tokens)


def character_level(**tokens: str) -> PreTrainedTokenizerFast:
    """A BPE over the characters it has seen, with no bytes to fall back to."""
    core = Tokenizer(models.BPE())
    core.decoder = decoders.Fuse()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(special_tokens=list(dict.fromkeys(tokens.values())), vocab_size=80)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **tokens)


def word_level(**tokens: str) -> PreTrainedTokenizerFast:
    """One id a word; white space is lost."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(
        CORPUS, trainers.WordLevelTrainer(special_tokens=list(dict.fromkeys(["<unk>", *tokens.values()])))
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **tokens)
