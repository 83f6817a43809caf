"""The card in every adapter folder: what it is, and the lines that load it with no kit installed."""

from string import Template

from kit.models.base import Base

_TITLES = {
    "sft": "SFT policy", "dpo": "DPO policy", "ppo": "PPO policy", "rloo": "RLOO policy", "grpo": "GRPO policy",
    "reward": "Reward model",
}  # fmt: skip

_CARD = Template("""---
base_model: $base
library_name: peft
tags: [rlhf-kit, $stage, lora]
---

# $title

A LoRA adapter trained by rlhf-kit on `$base`$quantized. It loads with PEFT alone, from any working directory:

```python
import torch
from peft import $auto
from transformers import AutoTokenizer$imports

folder = "path/of/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = $auto.from_pretrained(folder, $options)
$use
```
""")

_NF4 = Template("""nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=$dtype
)
""")

_GENERATE = Template("""
messages = [{"role": "user", "content": "…"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**inputs.to(model.device), max_new_tokens=256, eos_token_id=$stops)
print(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))""")

_SCORE = Template("""model.config.pad_token_id = tokenizer.pad_token_id

messages = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
end = (ids[0] == $end_of_turn).nonzero()[-1]  # the score is read at the end of the turn
print(model(ids[:, : end + 1].to(model.device)).logits.item())""")


def adapter_card(stage: str, base: Base) -> str:
    """Markdown with a loading example for this stage's adapter on its base, quantised as it was trained."""
    dtype = str(base.precision.dtype)
    options = [f"dtype={dtype}"]
    if base.settings.revision:
        options.append(f'revision="{base.settings.revision}"')
    if base.precision.nf4:
        options.append("quantization_config=nf4")
    if stage == "reward":
        options.append("num_labels=1")
        use = _SCORE.substitute(end_of_turn=base.codec.end_of_turn)
    else:
        use = _GENERATE.substitute(stops=sorted(base.codec.stops))
    card = _CARD.substitute(
        base=base.settings.base,
        stage=stage,
        title=_TITLES[stage],
        quantized=" (4-bit NF4)" if base.precision.nf4 else "",
        auto="AutoPeftModelForSequenceClassification" if stage == "reward" else "AutoPeftModelForCausalLM",
        imports=", BitsAndBytesConfig" if base.precision.nf4 else "",
        options=", ".join(options),
        use=use,
    )
    nf4 = _NF4.substitute(dtype=dtype) if base.precision.nf4 else ""
    return card.replace("folder = ", nf4 + "folder = ", 1)
