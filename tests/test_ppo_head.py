"""kit.ppo.head against log_softmax of the model's own logits; and that PPO never holds the logits of a rollout."""

import pytest
import torch
from ppo_toy import trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy import rows
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

import kit.ppo.head
from kit.ppo.head import Head

SIZE = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES = {
    "plain": (Qwen2ForCausalLM, Qwen2Config(**SIZE)),
    "bias": (PhiForCausalLM, PhiConfig(**SIZE)),
    "softcap": (Gemma2ForCausalLM, Gemma2Config(**SIZE, head_dim=8, final_logit_softcapping=3.0)),
    "logits_scaling": (GraniteForCausalLM, GraniteConfig(**SIZE, logits_scaling=8.0)),
    "logit_scale": (CohereForCausalLM, CohereConfig(**SIZE, logit_scale=0.25)),
}


def model_of(name):
    set_seed(0)
    kind, config = ARCHITECTURES[name]
    model = kind(config).eval()
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model.requires_grad_(False)


class Seen:
    """A model's hidden states, its log-probabilities of the next ids from its own logits, and their gradient."""

    def __init__(self, name, temperature):
        self.model = model_of(name)
        ids = torch.tensor(rows(9, 9, seed=1)) % SIZE["vocab_size"]
        caught = []

        def catch(_, __, output):
            caught.append(output.last_hidden_state.detach().requires_grad_())
            output.last_hidden_state = caught[0]
            return output

        handle = self.model.base_model.register_forward_hook(catch)
        every = torch.log_softmax(self.model(ids).logits[:, :-1].double() / temperature, -1)
        handle.remove()
        self.labels = ids[:, 1:].reshape(-1)
        self.logps = every.gather(-1, ids[:, 1:, None])[..., 0].reshape(-1)
        self.entropy = -(every.exp() * every).sum(-1).reshape(-1)
        self.upstream = torch.linspace(-1, 2, len(self.labels))
        (self.logps * self.upstream).sum().backward()
        self.hidden = caught[0].detach()[:, :-1].reshape(len(self.labels), -1)
        self.gradient = caught[0].grad[:, :-1].reshape(self.hidden.shape)

    def by_head(self, temperature):
        """(log-probabilities, entropy, gradient with respect to the hidden states), as the head has them."""
        hidden = self.hidden.clone().requires_grad_()
        logps, entropy = Head.of(self.model, temperature).logps(hidden, self.labels)
        (logps * self.upstream).sum().backward()
        return logps, entropy, hidden.grad


def close(got, wanted):
    torch.testing.assert_close(got.detach().float(), wanted.detach().float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
class TestHead:
    def test_log_probabilities_are_those_of_the_models_own_logits(self, name, temperature):
        seen = Seen(name, temperature)
        close(seen.by_head(temperature)[0], seen.logps)

    def test_the_gradient_of_the_hidden_states_is_autograds(self, name, temperature):
        seen = Seen(name, temperature)
        assert seen.gradient.abs().max() > 0.01
        close(seen.by_head(temperature)[2], seen.gradient)

    def test_the_entropy_is_that_of_the_distribution_and_has_no_gradient(self, name, temperature):
        seen = Seen(name, temperature)
        entropy = seen.by_head(temperature)[1]
        close(entropy, seen.entropy)
        assert not entropy.requires_grad

    def test_tiles_of_3_rows_equal_one_tile(self, name, temperature, monkeypatch):
        seen = Seen(name, temperature)
        whole = seen.by_head(temperature)
        monkeypatch.setattr(kit.ppo.head, "_TILE_BYTES", 3 * 4 * SIZE["vocab_size"])
        for got, wanted in zip(seen.by_head(temperature), whole, strict=True):
            close(got, wanted)

    def test_what_triton_devices_run_gives_the_same(self, name, temperature, monkeypatch):
        """There TRL's function is called; off Triton it computes the same with torch."""
        seen = Seen(name, temperature)
        ours = seen.by_head(temperature)
        monkeypatch.setattr(kit.ppo.head, "_on_triton", lambda device: True)
        monkeypatch.delattr(kit.ppo.head, "_LogProbs")  # the other branch would fail
        trls = seen.by_head(temperature)
        assert not trls[1].requires_grad
        for got, wanted in zip(trls, ours, strict=True):
            close(got, wanted)


class TestArchitectures:
    """What makes the tests above mean something: each of the transforms changes the log-probabilities."""

    @pytest.mark.parametrize(
        "name, change",
        [("softcap", {"softcap": None}), ("logits_scaling", {"scale": 1.0}), ("logit_scale", {"scale": 1.0}),
         ("bias", {"bias": None}), ("plain", {"temperature": 0.7})],
    )  # fmt: skip
    def test_without_the_transform_the_log_probabilities_are_others(self, name, change):
        seen = Seen(name, 1.0)
        head = Head.of(seen.model, 1.0)
        logps, _ = Head(**{**vars(head), **change}).logps(seen.hidden, seen.labels)
        assert (logps - seen.logps).abs().max() > 0.05

    def test_without_a_wanted_gradient_there_is_none(self):
        seen = Seen("plain", 1.0)
        logps, _ = Head.of(seen.model, 1.0).logps(seen.hidden, seen.labels)
        assert not logps.requires_grad
        close(logps, seen.logps)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation hands back, in elements of the memory it holds (a view may show more)."""

    def __init__(self):
        super().__init__()
        self.elements, self.by, self.shape = 0, None, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                elements = leaf.untyped_storage().nbytes() // leaf.element_size()
                if elements > self.elements:
                    self.elements, self.by, self.shape = elements, func, tuple(leaf.shape)
        return out


class TestMemory:
    @pytest.mark.parametrize("critic, checkpointing", [("adapter", False), ("shared", True)])
    def test_no_batch_by_length_by_vocabulary_tensor_ever_exists_in_a_rollout_and_its_updates(
        self, tmp_path, monkeypatch, critic, checkpointing
    ):
        monkeypatch.setattr(kit.ppo.head, "_TILE_BYTES", 4 * 2**12)
        sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "generation_batch_size": 16}
        ppo = trainer(
            tmp_path, critic, **sizes, max_completion_length=24, rollouts=1, gradient_checkpointing=checkpointing
        )
        with Largest() as largest:
            ppo.train()
        assert ppo.state.global_step == 4
        vocabulary = ppo.model.config.vocab_size
        b, r = ppo.args.per_device_train_batch_size, int(ppo._rollout.mask.sum(1).sort().values[:8].max())
        assert b * r * vocabulary > 1.5 * ppo.model.get_output_embeddings().weight.numel()
        assert largest.elements < b * r * vocabulary / 1.5, f"{largest.by}: {largest.shape}"
