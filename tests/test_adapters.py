"""Adapter folders: ordinary PEFT folders that load without the kit, from anywhere, and give the same numbers."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import LORA, QUESTIONS, adapters, toy_base

import kit
from kit.models.adapters import ADAPTER_FILE, SCORE_KEY, add_adapter, keep_weights, load_policy, new_policy, score_head
from kit.models.generation import sample, score
from kit.models.roles import policy_roles

WITHOUT_KIT = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer, BitsAndBytesConfig

sft, reward, nf4, prompts, responses = json.loads(sys.argv[1])
options = {"dtype": torch.float32}
if nf4:
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sft)
policy = AutoPeftModelForCausalLM.from_pretrained(sft, **options)
texts = []
for messages in prompts:
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = policy.generate(**inputs, max_new_tokens=12, do_sample=False)
    texts.append(out[0, inputs["input_ids"].shape[1]:].tolist())
model = AutoPeftModelForSequenceClassification.from_pretrained(reward, num_labels=1, **options)
scores = [model(torch.tensor([ids])).logits.item() for ids in responses]
assert "kit" not in sys.modules
print("RESULT" + json.dumps([texts, scores]))
"""


class TestWithoutTheKit:
    @pytest.mark.parametrize("nf4", [False, True])
    def test_greedy_text_and_scores_equal_the_kits(self, nf4, tmp_path):
        base, (sft, reward) = toy_base(nf4), adapters(nf4)
        prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
        ids = [base.codec.prompt(messages) for messages in prompts]
        roles = policy_roles(base.causal_lm(), sft, reward, trainable=False)
        answers = sample(roles, "policy", ids, 12, temperature=0, seed=0, batch_size=2)
        scores = score(roles, ids, answers, batch_size=3)

        sequences = [p + a for p, a in zip(ids, answers, strict=True)]
        arguments = json.dumps([str(sft), str(reward), nf4, prompts, sequences])
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_KIT, arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert "RESULT" in done.stdout, done.stderr
        texts, their_scores = json.loads(done.stdout.split("RESULT")[1])
        assert texts == answers
        assert their_scores == pytest.approx(scores, rel=1e-4, abs=1e-4)


class TestFolder:
    def test_it_holds_peft_files_tokenizer_and_card_and_nothing_pickled(self):
        for folder in adapters():
            names = {path.name for path in folder.iterdir()}
            assert {"adapter_config.json", ADAPTER_FILE, "tokenizer.json", "README.md"} <= names
            assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]

    def test_base_is_named_by_an_absolute_path_or_a_hub_id(self):
        config = json.loads((adapters()[0] / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"].startswith("/")

    def test_reward_starts_as_a_copy_of_sft(self, tmp_path):
        from kit.models.adapters import new_reward

        sft = load_file(adapters()[0] / ADAPTER_FILE)
        model = new_reward(toy_base().scorer(), adapters()[0])
        own = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
        assert set(own) == set(sft) and all(torch.equal(own[name], value) for name, value in sft.items())
        assert any("score" in name and p.requires_grad for name, p in model.named_parameters())

    def test_reward_file_carries_the_score_head(self):
        assert score_head(adapters()[1]).shape == (1, 64)

    def test_a_policy_is_no_reward_adapter(self):
        with pytest.raises(kit.ModelError, match="no score head"):
            score_head(adapters()[0])

    def test_an_adapter_of_another_base_is_refused(self, tmp_path):
        shutil.copytree(adapters()[0], tmp_path / "other")
        weights = load_file(tmp_path / "other" / ADAPTER_FILE)
        renamed = {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()}
        save_file(renamed, tmp_path / "other" / ADAPTER_FILE)
        with pytest.raises(kit.ModelError, match="another base"):
            load_policy(toy_base().causal_lm(), tmp_path / "other")

    def test_a_folder_without_an_adapter_is_refused(self, tmp_path):
        with pytest.raises(kit.ModelError, match=r"adapter_config\.json cannot be read"):
            load_policy(toy_base().causal_lm(), tmp_path)


class TestNewPolicy:
    def test_it_changes_nothing_at_first(self):
        base = toy_base()
        ids = torch.tensor([base.codec.prompt([{"role": "user", "content": "Hi"}])])
        with torch.no_grad():
            plain = base.causal_lm()(ids).logits
            torch.testing.assert_close(new_policy(base.causal_lm(), LORA)(ids).logits, plain)

    def test_all_linear_leaves_the_head_alone(self):
        names = [n for n, _ in new_policy(toy_base().causal_lm(), LORA).named_parameters() if "lora_" in n]
        assert names and not [n for n in names if "lm_head" in n]

    def test_targets_that_match_nothing_are_refused_with_the_names_there_are(self):
        with pytest.raises(kit.ModelError, match="q_proj"):
            new_policy(toy_base().causal_lm(), LORA.model_copy(update={"targets": ["nope"]}))


class TestAddAdapter:
    def test_it_is_frozen_and_leaves_the_policy_trainable(self):
        model = load_policy(toy_base().causal_lm(), adapters()[0])
        add_adapter(model, "reward", adapters()[1])
        flags = {n: p.requires_grad for n, p in model.named_parameters() if "lora_" in n}
        assert all(flag == (".default." in name) for name, flag in flags.items())

    def test_the_score_head_stays_out_of_the_causal_model(self):
        assert SCORE_KEY in load_file(adapters()[1] / ADAPTER_FILE)
        model = load_policy(toy_base().causal_lm(), adapters()[0])
        add_adapter(model, "reward", adapters()[1])
        assert not [n for n, _ in model.named_parameters() if "score" in n]


class TestKeepWeights:
    def test_a_cast_inside_is_undone_to_the_bit(self):
        model = load_policy(toy_base().causal_lm(), adapters()[0])
        before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
        with keep_weights(model):
            for p in model.parameters():
                if p.requires_grad:
                    p.data = p.data.to(torch.bfloat16)
        after = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert all(after[n].dtype == torch.float32 and torch.equal(after[n], value) for n, value in before.items())
