"""Four roles on one base: each under its own adapter, flags restored, the base in memory once."""

import pytest
import torch
from toy import adapters, rows, toy_base, toy_roles

from kit.models.decoding import pad_rows
from kit.models.roles import ADAPTERS, policy_roles


def trainable(roles):
    return {name for name, parameter in roles.model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module")
def roles():
    return toy_roles()


@pytest.fixture
def inputs():
    return pad_rows(rows(9, 5, 7), pad=0)


class TestUse:
    def test_each_role_has_an_output_of_its_own(self, roles, inputs):
        outputs = []
        for role in ("policy", "reward"):
            with roles.use(role), torch.no_grad():
                outputs.append(roles.hidden(*inputs))
        assert not torch.allclose(*outputs)

    def test_the_critic_starts_as_the_reward(self, roles, inputs):
        outputs = []
        for role in ("reward", "critic"):
            with roles.use(role), torch.no_grad():
                outputs.append(roles.hidden(*inputs))
        torch.testing.assert_close(*outputs, rtol=0, atol=0)
        assert torch.equal(roles.value_head.weight, roles.reward_head.weight)

    def test_requires_grad_is_the_same_inside_and_after(self, roles):
        before = trainable(roles)
        for role in ("reward", "critic", "policy"):
            with roles.use(role):
                assert trainable(roles) == before
            assert trainable(roles) == before

    def test_policy_and_critic_are_trainable_reward_and_base_are_not(self, roles):
        assert trainable(roles) and all(
            ".default." in name or ".critic." in name or "value_head" in name for name in trainable(roles)
        )
        assert any(".default." in n for n in trainable(roles)) and any(".critic." in n for n in trainable(roles))

    def test_training_mode_is_restored_module_by_module(self, roles):
        roles.model.train()
        next(m for m in roles.model.modules() if isinstance(m, torch.nn.Dropout | torch.nn.Identity)).eval()
        before = [m.training for m in roles.model.modules()]
        with roles.use("reward"):
            roles.model.eval()
        assert [m.training for m in roles.model.modules()] == before

    def test_an_error_inside_restores_everything(self, roles):
        before, active = trainable(roles), roles.model.active_adapter
        with pytest.raises(ZeroDivisionError), roles.use("reward"):
            roles.model.requires_grad_(False)
            _ = 1 / 0
        assert trainable(roles) == before and roles.model.active_adapter == active

    def test_roles_nest(self, roles, inputs):
        with roles.use("critic"), torch.no_grad():
            alone = roles.hidden(*inputs)
            with roles.use("reward"):
                roles.hidden(*inputs)
            torch.testing.assert_close(roles.hidden(*inputs), alone, rtol=0, atol=0)

    def test_an_unknown_role_is_refused_and_changes_nothing(self, roles):
        before = trainable(roles)
        with pytest.raises(ValueError), roles.use("nobody"):
            pass
        assert trainable(roles) == before

    def test_the_critic_learns_after_a_reference_pass(self, roles, inputs):
        with roles.use("reward"), torch.no_grad():
            roles.hidden(*inputs)
        with roles.use("critic"):
            roles.values(roles.hidden(*inputs)).sum().backward()
        gradients = [p.grad for n, p in roles.model.named_parameters() if ".critic." in n]
        assert all(g is not None for g in gradients) and any(g.abs().sum() > 0 for g in gradients)
        assert all(p.grad is None for n, p in roles.model.named_parameters() if ".default." in n or ".reward." in n)
        roles.model.zero_grad()


class TestScores:
    def test_a_score_does_not_depend_on_its_neighbours_or_the_padding(self, roles):
        sequences = rows(9, 5, 7)
        together = roles.scores(*pad_rows(sequences, pad=0))
        alone = torch.cat([roles.scores(*pad_rows([sequence], pad=0)) for sequence in sequences])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)

    def test_the_last_real_token_is_where_it_is_read(self, roles):
        (row,) = rows(8)
        changed = [*row[:-1], row[-1] + 1]
        one, other = roles.scores(*pad_rows([row], 0)), roles.scores(*pad_rows([changed], 0))
        assert abs(one.item() - other.item()) > 1e-4

    def test_a_pad_id_inside_a_row_is_a_token_like_any_other(self, roles):
        (row,) = rows(6)
        row[2] = row[-1] = 0
        together = roles.scores(*pad_rows([row, rows(9)[0]], pad=0))
        torch.testing.assert_close(together[:1], roles.scores(*pad_rows([row], pad=0)), rtol=1e-5, atol=1e-5)


class TestOneBase:
    @pytest.mark.parametrize("nf4", [False, True])
    def test_four_roles_hold_the_base_once(self, nf4):
        alone = _base_bytes(toy_base(nf4).causal_lm())
        roles = toy_roles(nf4)
        roles.model.add_adapter(ADAPTERS["reference"], roles.model.peft_config["default"])
        everything = _storage_bytes(roles.model)
        own = sum(p.numel() * p.element_size() for n, p in roles.model.named_parameters() if _is_adapter(n))
        assert everything == alone + own

    def test_nf4_really_quantises(self):
        kinds = {type(m).__name__ for m in toy_base(nf4=True).causal_lm().modules()}
        assert "Linear4bit" in kinds
        assert _base_bytes(toy_base(nf4=True).causal_lm()) < 0.6 * _base_bytes(toy_base().causal_lm())

    def test_without_a_reward_there_is_no_critic(self):
        roles = policy_roles(toy_base().causal_lm(), adapters()[0])
        assert set(roles.model.peft_config) == {"default"}
        with pytest.raises(RuntimeError, match="no reward"):
            roles.scores(*pad_rows(rows(3), 0))


def _is_adapter(name):
    return "lora_" in name or "value_head" in name


def _storage_bytes(model):
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


_base_bytes = _storage_bytes
