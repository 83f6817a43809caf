"""What saves memory without a change in the numbers: frozen adapters in 16 bits, prompts in pieces, an embedding on the
host; and what changes them a little: adapters trained in bfloat16."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toy import LORA, QUESTIONS, adapters, rows, toy_base
from toy_stages import toy_config, toy_encoded
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import kit
from kit.config import Config
from kit.errors import ConfigError, MachineError
from kit.models import adapters as adapters_unit
from kit.models import base as base_unit
from kit.models import decoding
from kit.models.adapters import load_policy, new_policy
from kit.models.decoding import sample_responses
from kit.models.device import Precision, free_memory_bytes
from kit.models.generation import distances, score
from kit.models.host_embedding import HostEmbedding, keep_embedding_on_host
from kit.models.plan.card import GIB, named_card
from kit.models.plan.memory import CONTEXT_BYTES
from kit.models.roles import policy_roles
from kit.preflight import check_memory
from kit.runs.checkpoints import Checkpoints
from kit.runs.folder import RunFolder
from kit.runs.inputs import changed_inputs, checkpoint_inputs, stage_inputs
from kit.runs.steps import Step
from kit.stages import dpo, ppo, sft
from kit.stages.sizes import choose_sizes

CODEC = toy_base().codec
SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
HEADS = {"intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
ARCHITECTURES = [  # sliding windows, GPT-2's names, and one without keys and values
    {"model_type": "gemma2", "head_dim": 16, "sliding_window": 8} | HEADS,
    {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8} | HEADS,
    {"model_type": "mistral", "sliding_window": 8} | HEADS,
    {"model_type": "gpt2", "n_head": 2},
    {"model_type": "mamba"},
]
PROMPTS = [toy_base().codec.prompt([{"role": "user", "content": text}]) for text in QUESTIONS]


def llama(tied=False):
    """A base whose head is not its embedding."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, tie_word_embeddings=tied, **sizes, **ends)).eval()


@pytest.fixture
def autocasting(monkeypatch):
    """The toy base in bfloat16, whose passes autocast as they would on a GPU."""
    monkeypatch.setattr(adapters_unit, "autocast_dtype", lambda model: torch.bfloat16)


class TestFrozenAdapters:
    def test_have_the_bytes_of_autocast_and_the_trained_ones_float32(self, autocasting):
        roles = policy_roles(toy_base().causal_lm(), *adapters())
        dtypes = {name: {p.dtype for n, p in roles.model.named_parameters() if f".{name}." in n}
                  for name in ("default", "reward", "critic")}  # fmt: skip
        assert dtypes == {"default": {torch.float32}, "reward": {torch.bfloat16}, "critic": {torch.float32}}

    def test_give_the_numbers_of_float32_under_autocast_to_the_bit(self, monkeypatch):
        ids, found = torch.tensor(rows(20, 20)), []
        for dtype in (None, torch.bfloat16):
            monkeypatch.setattr(adapters_unit, "autocast_dtype", lambda model, dtype=dtype: dtype)
            model = load_policy(toy_base().causal_lm().to(torch.bfloat16), adapters()[0], trainable=False).eval()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                found.append(model(ids).logits)
        assert torch.equal(*found)

    def test_are_those_of_the_reference_too(self, autocasting, tmp_path, monkeypatch):
        seen = {}
        for module, stage in ((dpo, "dpo"), (ppo, "ppo")):

            def looking(trainer, *rest, stage=stage):
                reference = {p.dtype for n, p in trainer.model.named_parameters() if ".ref." in n}
                trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
                seen[stage] = (reference, trained)
                raise KeyboardInterrupt

            monkeypatch.setattr(module, "train_with_progress", looking)
        config, data = toy_config(), toy_encoded()
        with pytest.raises(KeyboardInterrupt):
            dpo.train_dpo(config, data, toy_base(), tmp_path, adapters()[0], Checkpoints(tmp_path / "dpo"))
        with pytest.raises(KeyboardInterrupt):
            ppo.train_ppo(config, data, toy_base(), tmp_path, *adapters(), Checkpoints(tmp_path / "ppo"))
        assert seen == {stage: ({torch.bfloat16}, {torch.float32}) for stage in ("dpo", "ppo")}

    def test_stay_float32_where_nothing_autocasts(self):
        roles = policy_roles(toy_base().causal_lm(), *adapters())
        assert {p.dtype for n, p in roles.model.named_parameters() if "lora_" in n} == {torch.float32}


class TestAnAdapterTrainedInBfloat16:
    @pytest.mark.parametrize("stage", ["sft", "dpo"])
    def test_has_half_the_bytes_in_every_stage_and_in_its_file(self, stage, tmp_path):
        lora = LORA.model_copy(update={"dtype": "bfloat16"})
        config = toy_config(**{name: {"max_steps": 1, "batch_size": 2} for name in ("sft", "dpo")})
        config = config.model_copy(update={"lora": lora})
        (tmp_path / "sft").mkdir()
        sft.train_sft(config, toy_encoded(), toy_base(), tmp_path / "sft", Checkpoints(tmp_path / "a"))
        if stage == "dpo":
            (tmp_path / "dpo").mkdir()
            dpo.train_dpo(
                config, toy_encoded(), toy_base(), tmp_path / "dpo", tmp_path / "sft", Checkpoints(tmp_path / "b")
            )
        stored = load_file(tmp_path / stage / "adapter_model.safetensors")
        assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}

    def test_is_float32_by_default(self):
        assert {p.dtype for p in new_policy(toy_base().causal_lm(), LORA).parameters() if p.requires_grad} == {
            torch.float32
        }

    def test_needs_a_base_that_computes_in_it(self, monkeypatch):
        monkeypatch.setattr(
            base_unit, "choose_precision", lambda _: Precision(torch.device("cpu"), torch.float16, False)
        )
        with pytest.raises(ConfigError, match=r"lora\.dtype: bfloat16 needs"):
            base_unit.find_base(Config(lora={"dtype": "bfloat16"}))


class TestAnEmbeddingOnTheHost:
    def test_changes_no_number(self):
        model, ids = llama(), torch.tensor(rows(9, 9)) % 100
        before = model(ids).logits
        keep_embedding_on_host(model)
        assert isinstance(model.get_input_embeddings(), HostEmbedding)
        assert torch.equal(model(ids).logits, before)

    def test_is_no_parameter_and_leaves_device_and_dtype_of_the_model_as_they_were(self):
        model = llama().to(torch.bfloat16)
        count, device, dtype = sum(p.numel() for p in model.parameters()), model.device, model.dtype
        keep_embedding_on_host(model)
        assert sum(p.numel() for p in model.parameters()) == count - 100 * 32
        assert (model.device, model.dtype) == (device, dtype) and next(model.parameters()).dtype == torch.bfloat16

    def test_stays_on_the_host_when_the_model_moves(self):
        model = llama()
        keep_embedding_on_host(model)
        assert model.to("meta").get_input_embeddings().table.device.type == "cpu"

    def test_leaves_one_that_is_the_head_too(self):
        model = llama(tied=True)
        keep_embedding_on_host(model)
        assert not isinstance(model.get_input_embeddings(), HostEmbedding)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gives_the_same_gradients(self, checkpointing):
        found = []
        for on_host in (False, True):
            model = llama().requires_grad_(False)
            if on_host:
                keep_embedding_on_host(model)
            torch.manual_seed(1)
            policy = new_policy(model, LORA).train()
            if checkpointing:
                policy.get_base_model().enable_input_require_grads()
                policy.gradient_checkpointing_enable()
            policy(torch.tensor(rows(9, 9)) % 100).logits.square().sum().backward()
            found.append({n: p.grad for n, p in policy.named_parameters() if p.requires_grad})
        assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []

    def test_is_what_lean_asks_for_on_a_gpu_alone(self, monkeypatch):
        moved = []
        monkeypatch.setattr(base_unit, "keep_embedding_on_host", moved.append)
        monkeypatch.setattr(base_unit, "load_causal_lm", lambda *_: "model")
        monkeypatch.setattr(base_unit, "identify", lambda *_: None)
        for kind, lean in (("cuda", True), ("cuda", False), ("cpu", True)):
            made = base_unit.Base(
                toy_base().settings, "", Precision(torch.device(kind), torch.bfloat16, True), CODEC, lean
            )
            assert made.causal_lm() == "model"
        assert moved == ["model"]
        assert base_unit.embedding_on_host(Config(memory="lean")) and not base_unit.embedding_on_host(Config())


class TestPromptsInPieces:
    def test_are_answered_alike(self, monkeypatch):
        model = policy_roles(toy_base().causal_lm(), *adapters()).model.eval()
        found, widths = [], []
        for at_once in (4096, 3):
            monkeypatch.setattr("kit.models.plan.memory.TOKENS_AT_ONCE", at_once * len(PROMPTS))
            hook = model.base_model.model.model.register_forward_pre_hook(
                lambda _, given, named: widths.append((named.get("input_ids", given[0] if given else None)).shape[1]),
                with_kwargs=True,
            )
            torch.manual_seed(0)
            found.append(sample_responses(model, PROMPTS, 8, len(PROMPTS)))
            hook.remove()
        assert found[0].ids == found[1].ids
        longest = max(map(len, PROMPTS))
        assert widths[0] == longest and 3 in widths and decoding._columns_at_once(len(PROMPTS), longest) == 3
        for one, other in zip(found[0].logps, found[1].logps, strict=True):
            assert one == pytest.approx(other, abs=1e-4)

    @pytest.mark.parametrize("fields", ARCHITECTURES, ids=lambda fields: fields["model_type"])
    def test_are_answered_alike_by_other_architectures(self, fields, monkeypatch):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields, **SMALL)).eval()
        model.generation_config.pad_token_id = 0
        prompts, found = [[i % 90 + 3 for i in ids] for ids in rows(5, 9, 20, 31)], []
        for at_once in (4096, 16):
            monkeypatch.setattr("kit.models.plan.memory.TOKENS_AT_ONCE", at_once)
            torch.manual_seed(1)
            found.append(sample_responses(model, prompts, 8, 4).ids)
        assert found[0] == found[1]


class TestLongAnswersOfTheComparison:
    def test_are_scored_a_few_at_a_time_with_the_same_numbers(self, monkeypatch):
        roles = policy_roles(toy_base().causal_lm(), *adapters())
        roles.add("reference", adapters()[0])
        answers, found, sizes = rows(*range(3, 3 + len(PROMPTS)), seed=1), [], []
        hidden = roles.hidden
        monkeypatch.setattr(roles, "hidden", lambda ids, mask: sizes.append(len(ids)) or hidden(ids, mask))
        for tokens in (4096, 1):
            monkeypatch.setattr("kit.models.plan.memory.TOKENS_AT_ONCE", tokens)
            found.append(
                (score(roles, PROMPTS, answers, 8), distances(roles, "policy", "reference", PROMPTS, answers, 8))
            )
        assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
        for one, other in zip(found[0][1], found[1][1], strict=True):
            assert (one.kl_nats, one.entropy_nats) == pytest.approx((other.kl_nats, other.entropy_nats), abs=1e-4)
        assert max(sizes) > 1 and sizes[-1] == 1


class TestTheSizesOfAStage:
    def test_follow_the_memory_that_is_free(self, tmp_path, monkeypatch):
        sizes = {}
        for gib in (0.001, 24):
            monkeypatch.setattr("kit.stages.sizes.free_memory_bytes", lambda _, gib=gib: int(gib * GIB))
            sizes[gib] = choose_sizes(toy_config(), "ppo", toy_base(), 64, Checkpoints(tmp_path)).sizes
        assert (sizes[0.001].micro, sizes[0.001].rollout) == (1, 1)
        assert (sizes[24].micro, sizes[24].rollout) == (16, 64)

    @pytest.mark.parametrize(
        "gib, line", [(24, "kit: ppo: 16 of a batch of 16 at once, 64 responses"), (0.5, "kit: warning: ppo: 1 of")]
    )
    def test_are_said_on_a_gpu_with_what_is_predicted_and_free(self, gib, line, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("kit.stages.sizes.free_memory_bytes", lambda _: int(gib * GIB))
        on_gpu = replace(toy_base(), precision=Precision(torch.device("cuda"), torch.bfloat16, True))
        choice = choose_sizes(toy_config(memory="lean"), "ppo", on_gpu, 64, Checkpoints(tmp_path))
        said = "".join(capsys.readouterr())
        assert said.startswith(line) and "gradient checkpointing; " in said and f"{gib:.1f} GiB free" in said
        assert choice.how.optim_8bit and choice.how.host_embedding and choice.how.context

    def test_on_a_gpu_are_of_what_is_free_and_what_the_process_holds_within_its_share(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * GIB, 24 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * GIB)
        for share, usable in ((1.0, 7), (0.25, 6)):
            monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, share=share: share)
            assert free_memory_bytes(torch.device("cuda")) == usable * GIB + CONTEXT_BYTES

    def test_on_a_cpu_are_of_the_memory_that_the_system_has_left(self):
        assert 0 < free_memory_bytes(torch.device("cpu")) < 2**50

    def test_never_change_what_an_optimizer_step_sees(self, tmp_path, monkeypatch):
        """A run where one row fits and one where all do, to the same weights but for rounding."""
        found = []
        for gib in (0.001, 24):
            monkeypatch.setattr("kit.stages.sizes.free_memory_bytes", lambda _, gib=gib: int(gib * GIB))
            out = tmp_path / str(gib)
            out.mkdir()
            config = toy_config(dpo={"batch_size": 4, "learning_rate": 1e-2})
            dpo.train_dpo(config, toy_encoded(), toy_base(), out, adapters()[0], Checkpoints(out / "checkpoints"))
            found.append(load_file(out / "adapter_model.safetensors"))
            assert len((out / "metrics.jsonl").read_text().splitlines()) >= 2
        for name, weight in found[0].items():
            torch.testing.assert_close(weight, found[1][name], rtol=1e-3, atol=2e-4)


class TestABaseThatCannotFit:
    M24 = "mistralai/Mistral-Small-24B-Instruct-2501"

    @pytest.fixture
    def card(self, monkeypatch):
        monkeypatch.setattr("kit.models.plan.card.find_card", lambda: named_card(8))

    def run(self, tmp_path, **settings):
        kit.run_pipeline({"output_dir": str(tmp_path), "data": {"preferences": "no/such-hub-id"}}, **settings)

    def test_is_refused_before_the_data_is_looked_for(self, card, tmp_path):
        with pytest.raises(MachineError, match=r"24B.*8 GiB.*No setting makes it fit\. What would fit: \S+"):
            self.run(tmp_path, model={"base": self.M24})
        assert list(tmp_path.iterdir()) == []

    def test_is_refused_with_the_settings_that_would_help(self, card):
        with pytest.raises(MachineError, match="memory=lean"):
            check_memory(Config(model={"base": "Qwen/Qwen2.5-7B", "quantization": "none"}))

    def test_within_a_tenth_of_the_card_runs_with_a_warning(self, monkeypatch, capsys):
        config = Config(model={"base": "meta-llama/Llama-3.1-8B"}, stages=["sft"])
        monkeypatch.setattr("kit.models.plan.card.find_card", lambda: named_card(7.5))
        check_memory(config)
        assert "memory=lean" in capsys.readouterr().err
        monkeypatch.setattr("kit.models.plan.card.find_card", lambda: named_card(6.5))
        with pytest.raises(MachineError):
            check_memory(config)

    def test_without_a_gpu_is_refused_where_its_weights_alone_are_too_large(self, monkeypatch):
        monkeypatch.setattr("kit.models.plan.card.find_card", lambda: None)
        with pytest.raises(MachineError, match=r"its weights take 87\.8 GiB.*no GPU was found"):
            check_memory(Config(model={"base": self.M24}))
        check_memory(Config())

    def test_that_nobody_knows_is_left_to_the_check_of_the_model(self, card):
        check_memory(Config(model={"base": "nobody/knows-this"}))

    def test_does_not_stand_in_the_way_of_a_run_that_is_done(self, tmp_path, monkeypatch):
        settings = {
            "output_dir": str(tmp_path), "stages": ["sft"], "sft": {"max_steps": 1},
            "data": {"max_prompt_tokens": 48, "max_response_tokens": 48},
        }  # fmt: skip
        kit.run_pipeline(settings)
        monkeypatch.setattr("kit.models.plan.card.find_card", lambda: named_card(0.01))
        assert kit.run_pipeline(settings).stages["sft"]


class TestARunThatChangesItsMemory:
    def test_takes_up_the_checkpoints_of_its_own_optimizer_alone(self, tmp_path):
        step, folder = Step("sft", "sft", 0, ()), RunFolder(tmp_path)
        names = ("balanced", "fast", "lean")
        balanced, fast, lean = (checkpoint_inputs(step, Config(memory=name), "", folder) for name in names)
        assert balanced == fast and changed_inputs(balanced, lean) == ["memory balanced -> lean"]

    def test_has_the_inputs_of_a_run_that_knew_no_dtype_of_the_adapter(self, tmp_path):
        """Stages that 0.3 finished are kept."""
        step, folder = Step("sft", "sft", 0, ()), RunFolder(tmp_path)
        found = [stage_inputs(step, Config(lora={"dtype": x}), "", folder) for x in ("float32", "bfloat16")]
        assert "dtype" not in found[0]["lora"] and found[1]["lora"]["dtype"] == "bfloat16"

    def test_keeps_its_finished_stages(self, tmp_path, capsys):
        settings = {
            "output_dir": str(tmp_path), "stages": ["sft"], "sft": {"max_steps": 1},
            "data": {"max_prompt_tokens": 48, "max_response_tokens": 48},
        }  # fmt: skip
        kit.run_pipeline(settings)
        before = json.loads((tmp_path / "quickstart" / "run.json").read_text())
        kit.run_pipeline(copy.deepcopy(settings), memory="lean")
        assert "nothing to train" in capsys.readouterr().out
        assert json.loads((tmp_path / "quickstart" / "run.json").read_text())["stages"] == before["stages"]
