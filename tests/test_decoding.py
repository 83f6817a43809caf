"""Sampling: what it saw equals a plain forward, rows that ended leave, and nobody else notices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import rows, toy_roles
from transformers import set_seed

from kit.models import decoding
from kit.models.decoding import pad_rows, sample_responses

LENGTHS = (7, 3, 11, 5, 9, 4)


@pytest.fixture(scope="module")
def module_roles():
    roles = toy_roles()
    roles.model.eval()
    return roles


@pytest.fixture
def roles(module_roles):
    """The toy roles, with no token that ends a turn."""
    before = module_roles.model.generation_config.eos_token_id
    module_roles.model.generation_config.eos_token_id = None
    yield module_roles
    module_roles.model.generation_config.eos_token_id = before


def plain(roles, prompt, response, temperature=1.0):
    """(log-probabilities, values) of a response by one forward pass of its own, without padding."""
    ids = torch.tensor([prompt + response])
    places = slice(len(prompt) - 1, -1)
    with torch.no_grad():
        every = torch.log_softmax(roles.model(ids).logits[0, places] / temperature, -1)
        values = roles.values(roles.hidden(ids, torch.ones_like(ids))[0, places])
    return every.gather(1, torch.tensor(response)[:, None])[:, 0], values


def same_as_plain(roles, prompts, got, temperature=1.0):
    assert len(got.ids) == len(got.logps) == len(got.values) == len(prompts)
    for prompt, response, logps, values in zip(prompts, got.ids, got.logps, got.values, strict=True):
        assert len(response) == len(logps) == len(values)
        wanted, wanted_values = plain(roles, prompt, response, temperature)
        torch.testing.assert_close(torch.tensor(logps), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.tensor(values), wanted_values, rtol=1e-4, atol=1e-4)


def ends(roles, prompts, places):
    """Ids that, taken as ends of turn, make greedy response i end at or before place `places[i]`."""
    long = sample_responses(roles.model, prompts, 12, len(prompts), temperature=0).ids
    return sorted({row[place] for row, place in zip(long, places, strict=False)})


def by_transformers(roles, prompt, max_tokens):
    """transformers' own greedy answer to one prompt, in a batch of its own."""
    ids = torch.tensor([prompt])
    out = roles.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
        temperature=None, top_k=None, top_p=None,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


class TestWhatItSaw:
    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_log_probabilities_and_values_are_a_plain_forwards_whatever_the_prompts_lengths(self, roles, temperature):
        prompts = rows(*LENGTHS)
        set_seed(0)
        got = sample_responses(roles.model, prompts, 8, len(prompts), temperature, roles.values)
        assert all(len(ids) == 8 for ids in got.ids)
        same_as_plain(roles, prompts, got, temperature)

    def test_they_are_also_when_rows_end_at_different_times_and_leave(self, roles):
        prompts = rows(*LENGTHS)
        roles.model.generation_config.eos_token_id = list(range(0, roles.model.config.vocab_size, 5))
        set_seed(0)
        got = sample_responses(roles.model, prompts, 12, len(prompts), 1.0, roles.values)
        assert len({len(ids) for ids in got.ids}) > 2
        same_as_plain(roles, prompts, got)

    @settings(max_examples=12)
    @given(
        lengths=st.lists(st.integers(1, 14), min_size=1, max_size=6), size=st.integers(1, 4), seed=st.integers(0, 99)
    )
    def test_they_are_for_any_lengths_and_cuts(self, module_roles, lengths, size, seed):
        prompts = rows(*lengths, seed=seed)
        before = module_roles.model.generation_config.eos_token_id
        module_roles.model.generation_config.eos_token_id = list(range(0, module_roles.model.config.vocab_size, 5))
        try:
            same_as_plain(
                module_roles, prompts, sample_responses(module_roles.model, prompts, 5, size, 1.0, module_roles.values)
            )
        finally:
            module_roles.model.generation_config.eos_token_id = before

    def test_without_a_value_head_there_are_no_values(self, roles):
        assert sample_responses(roles.model, rows(3), 2, 1).values is None

    def test_samples_follow_the_softmax_at_the_temperature(self, roles):
        prompt, n = rows(4)[0], 4000
        set_seed(0)
        got = sample_responses(roles.model, [prompt] * n, 1, n, temperature=0.7)
        with torch.no_grad():
            p = torch.softmax(roles.model(torch.tensor([prompt])).logits[0, -1] / 0.7, -1)
        counts = torch.bincount(torch.tensor(got.ids)[:, 0], minlength=len(p)) / n
        assert 0.5 * (counts - p).abs().sum() < 0.5 * (p * (1 - p) / n).sqrt().sum() * 1.3


class TestEnds:
    def test_greedy_answers_are_transformers_own_row_by_row_though_rows_leave_the_batch(self, roles):
        prompts = rows(*LENGTHS)
        roles.model.generation_config.eos_token_id = ends(roles, prompts, (1, 3, 5, 2))
        got = sample_responses(roles.model, prompts, 12, len(prompts), temperature=0).ids
        assert len({len(ids) for ids in got}) >= 3
        assert got == [by_transformers(roles, prompt, 12) for prompt in prompts]

    def test_each_response_stops_at_its_first_end_of_turn_whichever_it_is(self, roles):
        prompts = rows(*LENGTHS)
        stops = ends(roles, prompts, (1, 3, 5, 2))
        assert len(stops) > 1
        free = sample_responses(roles.model, prompts, 12, len(prompts), temperature=0).ids
        roles.model.generation_config.eos_token_id = stops
        got = sample_responses(roles.model, prompts, 12, len(prompts), temperature=0).ids
        cut = [next((row[: i + 1] for i, token in enumerate(row) if token in stops), row) for row in free]
        assert got == cut and len({row[-1] for row in got} & set(stops)) > 1

    def test_rows_that_ended_are_not_run_again(self, roles):
        prompts = rows(*LENGTHS)
        roles.model.generation_config.eos_token_id = ends(roles, prompts, (1, 3, 5, 2))
        sizes = []
        hook = roles.model.base_model.model.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        got = sample_responses(roles.model, prompts, 12, len(prompts), temperature=0).ids
        hook.remove()
        lengths = torch.tensor([len(ids) for ids in got])
        living = [int((lengths > step).sum()) for step in range(int(lengths.max()))]
        assert sizes[0] == 6 and sizes[-1] < 6 and sizes == sorted(sizes, reverse=True)
        assert len(sizes) == len(living)
        # a batch holds no more dead rows than the share at which they are dropped
        assert all(live <= size and (size - live) / size < decoding._DROP_SHARE
                   for live, size in zip(living, sizes, strict=True))  # fmt: skip

    def test_a_response_that_does_not_end_has_max_tokens(self, roles):
        assert [len(ids) for ids in sample_responses(roles.model, rows(*LENGTHS), 7, 3).ids] == [7] * 6

    def test_a_response_may_be_its_end_alone(self, roles):
        roles.model.generation_config.eos_token_id = list(range(roles.model.config.vocab_size))
        got = sample_responses(roles.model, rows(*LENGTHS), 7, 6, 1.0, roles.values)
        assert [len(x) for x in got.ids] == [len(x) for x in got.logps] == [len(x) for x in got.values] == [1] * 6


class TestBatches:
    @pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
    def test_batch_size_cuts_and_the_answers_keep_the_order_of_their_prompts(self, roles, size):
        prompts = rows(*LENGTHS)
        seen = []
        hook = roles.model.base_model.model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        got = sample_responses(roles.model, prompts, 4, size, temperature=0).ids
        hook.remove()
        assert got == [by_transformers(roles, prompt, 4) for prompt in prompts]
        assert [b for b, s in seen if s > 1] == [len(x) for x in torch.arange(6).split(size)]

    def test_prompts_are_taken_in_order_of_length_so_that_little_is_padded(self, roles):
        widths = []
        hook = roles.model.base_model.model.register_forward_pre_hook(
            lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        sample_responses(roles.model, rows(*LENGTHS), 1, 2)
        hook.remove()
        assert widths == [4, 7, 11]

    def test_greedy_draws_nothing_from_the_global_random_state(self, roles):
        before = torch.get_rng_state()
        one, two = (sample_responses(roles.model, rows(5, 3), 4, 2, temperature=0).ids for _ in range(2))
        assert one == two and torch.equal(before, torch.get_rng_state())

    def test_no_hook_is_left_behind_even_after_an_error(self, roles):
        backbone = roles.model.base_model.model.model
        with pytest.raises(ZeroDivisionError):
            sample_responses(roles.model, rows(4), 3, 1, 1.0, lambda states: 1 / 0)
        assert not backbone._forward_hooks


class TestPadRows:
    @pytest.mark.parametrize("left", [False, True])
    def test_the_mask_comes_from_the_lengths_and_not_from_the_ids(self, left):
        ids, mask = pad_rows([[0, 5, 0], [7]], pad=0, left=left)
        assert ids.tolist() == [[0, 5, 0], [0, 0, 7] if left else [7, 0, 0]]
        assert mask.tolist() == [[1, 1, 1], [0, 0, 1] if left else [1, 0, 0]]
