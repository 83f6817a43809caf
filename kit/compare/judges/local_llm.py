"""A language model on this machine as the judge: which of the letters A and B is the likelier next token.

Nothing is sampled, so every reply is a verdict; whether the model understood the question shows in the probability it
puts on the two letters, in its consistency over both orders, and in its taste for a slot.
"""

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kit import notices
from kit.compare.judges.cache import VerdictCache, question_key
from kit.compare.judges.llm import NAME, verdicts_or_error
from kit.compare.judges.pairwise import Question, Verdict, judge_in_both_orders
from kit.compare.judges.scores import Arms
from kit.compare.judges.template import load_template, question_text
from kit.compare.verdicts import Verdicts
from kit.config import ModelSettings
from kit.data.rows import Message
from kit.errors import ModelError
from kit.models.base import load_causal_lm
from kit.models.codec import Codec
from kit.models.decoding import pad_rows
from kit.models.device import choose_precision
from kit.models.tokenizer import load_tokenizer

_LETTERS = (("A", " A"), ("B", " B"))
_TIE = 1e-9


def judge_by_local_llm(
    prompts: Sequence[list[Message]],
    answers: Mapping[str, Sequence[str]],
    pairs: Sequence[Arms],
    *,
    model: str,
    template: str | Path | None = None,
    cache: Path | None = None,
    batch_size: int = 8,
    quantization: str = "auto",
) -> Verdicts:
    """Who won each prompt, by the model in the folder or of the hub id `model`, asked in both orders.

    Loaded in 4-bit on a GPU, as the kit's own bases, only if there is a question that `cache` does not know, and freed
    before this returns. A question longer than the model's context has no valid verdict. Facts, besides those of
    `judge_in_both_orders`: `letter_probability`, the mean probability of the two letters, where the model was asked.

    Raises ModelError for a model that cannot be loaded or has no tokens for the letters, and ConfigError for a template
    without its placeholders.
    """
    question = load_template(template)
    kept, probabilities = VerdictCache(cache), list[float]()

    def ask(questions: list[Question]) -> list[Verdict]:
        keys = [question_key({"model": model}, question, prompts[q.prompt], q) for q in questions]
        todo = {key: q for key, q in zip(keys, questions, strict=True) if key not in kept.verdicts}
        notices.say(f"compare: {len(todo):,} questions to {model} on this machine ({len(questions):,} in all)")
        if todo:
            judge = _load(model, quantization)
            try:
                texts = [question_text(question, prompts[q.prompt], q.first, q.second, judge.special)
                         for q in todo.values()]  # fmt: skip
                probabilities.extend(judge.ask_all(list(todo), texts, kept, batch_size))
            finally:
                del judge
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return verdicts_or_error([kept.verdicts[key] for key in keys], model)

    description = f"the language model {model} on this machine, which compares two answers, asked in both orders"
    verdicts = judge_in_both_orders(NAME, description, prompts, answers, pairs, ask)
    mean = sum(probabilities) / len(probabilities) if probabilities else None
    return Verdicts(NAME, description, verdicts.outcomes, None, {**verdicts.facts, "letter_probability": mean})


class _Judge:
    """The loaded model, its tokenizer and the ids of the two letters."""

    def __init__(self, model: Any, codec: Codec, letters: tuple[list[int], list[int]]) -> None:
        self.model, self.codec, self.letters = model, codec, letters
        self.special = codec.special
        self.context: int = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31

    def ask_all(self, keys: list[str], texts: list[str], kept: VerdictCache, batch_size: int) -> list[float]:
        """Put each text's verdict into `kept`; the probability of the two letters for each text that fits."""
        rows = [self.codec.prompt([{"role": "user", "content": text}]) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        fit = [i for i in order if len(rows[i]) < self.context]
        for i in order[len(fit) :]:
            kept.put(keys[i], None, f"({len(rows[i])} tokens; the model reads {self.context})")
        masses: list[float] = []
        news = max(batch_size, len(fit) // 10)
        for start in range(0, len(fit), batch_size):
            part = fit[start : start + batch_size]
            for i, (a, b) in zip(part, self._letter_logps([rows[i] for i in part]), strict=True):
                verdict = 0.5 if abs(a - b) <= _TIE else float(a > b)
                kept.put(keys[i], verdict, f"log P(A) = {a:.4f}, log P(B) = {b:.4f}")
                masses.append(math.exp(a) + math.exp(b))
            if start // news != (start + batch_size) // news:
                notices.say(f"compare: {min(start + batch_size, len(fit)):,} of {len(fit):,} questions judged")
        return masses

    def _letter_logps(self, rows: list[list[int]]) -> list[list[float]]:
        """[b, 2] log-probabilities of A and B as the token after each row, in nats."""
        ids, mask = (x.to(self.model.device) for x in pad_rows(rows, self.model.generation_config.pad_token_id, True))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
            ).logits[:, -1]
            logps = torch.log_softmax(logits.float(), -1)
            return torch.stack([logps[:, letter].logsumexp(-1) for letter in self.letters], -1).tolist()


def _load(model: str, quantization: str) -> _Judge:
    settings = ModelSettings(base=model, quantization=quantization)  # type: ignore[arg-type]
    try:
        tokenizer = load_tokenizer(settings, settings.base)
        letters = _letter_ids(tokenizer, model)
        precision = choose_precision(settings)
        notices.say(f"compare: loading the judge {model} ({precision})")
        causal = load_causal_lm(settings, settings.base, precision, tokenizer)
    except ModelError as error:
        raise ModelError(str(error).replace("model.base", "compare.llm.model")) from None
    causal.eval()
    return _Judge(causal, Codec(tokenizer), letters)


def _letter_ids(tokenizer: Any, model: str) -> tuple[list[int], list[int]]:
    """The ids of the tokens that write A and those that write B, with and without a space before."""
    found = []
    for spellings in _LETTERS:
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in spellings]
        ids = sorted({ids[0] for ids in encoded if len(ids) == 1})
        if not ids:
            raise ModelError(f"compare.llm.model {model}: its tokenizer has no single token for {spellings[0]!r}")
        found.append(ids)
    return found[0], found[1]
