"""`kit sample`: what is drawn, what counts as a near-duplicate, the project that comes of it, and what is refused."""

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_base
from toy_run import ROWS, toy_run
from typer.testing import CliRunner

import kit
from kit.cli import app
from kit.data.load import load_data
from kit.errors import DataError, KitError, ModelError, RunError
from kit.labels.project import open_project
from kit.models.decoding import sample_responses
from kit.models.generation import sample as sample_roles
from kit.models.roles import policy_roles, without_dropout
from kit.runs.folder import RunFolder
from kit.sampling import draw
from kit.sampling.draw import Drawn, How, draw_answers
from kit.sampling.near import are_near, grams_of
from kit.sampling.sources import find_writers

PROMPTS = ["Name three animals.", "What is the time?", "Say hello.", "Name three red fruits, please."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("sample"))


@pytest.fixture
def made(run, tmp_path, monkeypatch):
    """Samples from the toy run into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda prompts=tuple(PROMPTS), k=4, **more: kit.sample(run, list(prompts), k, **more)


def plain(project):
    """The items that are neither repeats nor gold."""
    return [item for item in project.items.values() if item.repeat_of is None and item.gold is None]


def slowly_near(one: str, other: str) -> bool:
    """The definition, word by word."""
    sets = []
    for text in (one, other):
        words = text.lower().split()
        grams = {" ".join(words)} if 0 < len(words) < 3 else set()
        for start in range(len(words)):
            if start + 3 <= len(words):
                grams.add(" ".join(words[start : start + 3]))
        sets.append(grams)
    both = [gram for gram in sets[0] if gram in sets[1]]
    return len(both) / len(sets[0] | sets[1]) >= 0.9


def near(one: str, other: str) -> bool:
    return are_near(grams_of(one), grams_of(other))


class TestNearDuplicates:
    @given(st.lists(st.sampled_from(["a", "b", "C", "d\n"]), min_size=1, max_size=70), st.data())
    def test_are_what_the_definition_says(self, words, data):
        changed = list(words)
        for _ in range(data.draw(st.integers(0, 2))):
            changed[data.draw(st.integers(0, len(words) - 1))] = "other"
        one, other = " ".join(words), " ".join(changed)
        assert near(one, other) == near(other, one) == slowly_near(one, other)

    def test_do_not_differ_by_case_and_white_space(self):
        assert near("A cat,  a DOG\nand an owl.", "a cat, a dog and an owl.")

    @pytest.mark.parametrize("one, other", [("Yes.", "No."), ("Yes, it is.", "No, it is."), ("A cat.", "A cat")])
    def test_in_short_answers_every_word_counts(self, one, other):
        assert not near(one, other)

    @pytest.mark.parametrize("words, wanted", [(58, False), (59, True)])
    def test_one_word_of_59_makes_none_another_answer(self, words, wanted):
        text = [f"w{n}" for n in range(words)]
        assert near(" ".join(text), " ".join([*text[:30], "other", *text[31:]])) is wanted

    def test_are_found_in_scripts_without_spaces(self):
        text = "".join(chr(0x4E00 + n) for n in range(80))
        assert near(text, text[:40] + "猫" + text[41:]) and not near(text, text[:40] + text[:40])

    def test_repetitions_of_a_word_do_not_make_another_answer(self):
        assert near("plum " * 20, "plum " * 30) and not near("plum plum", "plum plum plum")


class TestTaking:
    def test_leaves_out_what_is_empty_or_there_already(self):
        drawn = Drawn([[], []], _grams=[[], []])
        taken = [drawn.take(0, text, {}) for text in ("A cat sits.", "a  cat sits.", " \n", "A dog sits.")]
        assert taken == [True, False, False, True] and (drawn.near, drawn.empty) == (1, 1)
        assert drawn.take(1, "A cat sits.", {})  # of another prompt
        assert [answer.text for answer in drawn.answers[0]] == ["A cat sits.", "A dog sits."]


class TestTheProject:
    def test_holds_k_different_answers_a_prompt_with_all_that_made_them(self, run, made):
        project = made()
        assert project.kind == "rank" and str(project.path) == "labels/toy" and len(plain(project)) == 4
        sha256 = RunFolder(run).stage("sft").adapter_sha256
        for item, prompt in zip(plain(project), PROMPTS, strict=True):
            assert item.prompt == [{"role": "user", "content": prompt}]
            assert [answer.name for answer in item.answers] == ["a1", "a2", "a3", "a4"]
            assert len({answer.text for answer in item.answers}) == 4 and all(a.text.strip() for a in item.answers)
            for answer in item.answers:
                assert answer.made["adapter"] == "sft" and answer.made["sha256"] == sha256
                assert 1 <= answer.made["tokens"] <= answer.made["max_tokens"] == 6
                assert (answer.made["temperature"], answer.made["top_p"], answer.made["top_k"]) == (1.0, 1.0, 0)
                assert answer.made["seed"] == 3 and answer.made["ended"] in (True, False)
        settings = open_project(project.path).settings["sampled"]
        assert settings["run"] == str(run) and settings["adapters"][0]["sha256"] == sha256
        assert settings["prompts"] == "prompts in memory" and settings["k"] == 4

    def test_has_as_many_repeats_as_asked_at_least_one(self, made):
        repeats = [item for item in made().items.values() if item.repeat_of]
        assert len(repeats) == 1
        assert len([x for x in made(name="half", repeats=0.5).items.values() if x.repeat_of]) == 2
        none = made(name="none", repeats=0)
        assert len(none.items) == 4 and not any(item.repeat_of for item in none.items.values())

    def test_is_the_same_for_the_same_seed_and_another_for_another(self, made):
        one, again, other = made(name="one"), made(name="again"), made(name="other", seed=4)
        assert [item.answers for item in plain(one)] == [item.answers for item in plain(again)]
        assert [item.answers for item in plain(one)] != [item.answers for item in plain(other)]

    def test_takes_what_a_project_is_asked_for(self, made, tmp_path):
        (tmp_path / "rules.md").write_text("# Be kind\n")
        project = made(per_item=3, overlap=0.5, seed=9, guidelines="rules.md", out="elsewhere", name="mine")
        assert str(project.path) == "elsewhere/mine" and project.guidelines() == "# Be kind\n"
        assert (project.per_item, project.overlap, project.seed) == (3, 0.5, 9)

    def test_takes_the_first_prompts_of_a_file_in_any_form(self, run, made, tmp_path):
        rows = [{"messages": [{"role": "user", "content": text}]} for text in PROMPTS]
        (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        project = kit.sample(run, "asked.jsonl", 2, limit=3)
        assert [item.prompt[0]["content"] for item in plain(project)] == PROMPTS[:3]
        assert [item.about["where"] for item in plain(project)] == [f"asked.jsonl:{n}" for n in (1, 2, 3)]
        assert project.settings["sampled"]["prompts"] == "asked.jsonl"

    def test_of_the_runs_own_prompts_has_none_that_is_held_out(self, run, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        settings = kit.load_config(run / "config.yaml").data
        held_out = {p.messages[-1]["content"] for p in load_data(settings, 3).prompts.held_out}
        asked = [item.prompt[-1]["content"] for item in plain(kit.sample(run, k=2))]
        assert len(held_out) == 10 and len(asked) == 30 == len(set(asked)) and not held_out & set(asked)
        assert "30 of the run's 30 training prompts" in capsys.readouterr().out
        few = [[i.prompt for i in plain(kit.sample(run, k=2, limit=5, name=f"s{s}", seed=s))] for s in (1, 2)]
        assert len(few[0]) == len(few[1]) == 5 and few[0] != few[1]


class TestAMix:
    def test_shares_answers_out_evenly_and_shuffles_their_names(self, made):
        project = made([f"{text} ({n})" for n in range(3) for text in PROMPTS], adapters=["sft", "dpo", "base"])
        by = [[answer.made["adapter"] for answer in item.answers] for item in plain(project)]
        assert len(by) == 12 and all(set(names) == {"sft", "dpo", "base"} for names in by)
        assert [sum(names.count(name) for names in by) for name in ("sft", "dpo", "base")] == [16, 16, 16]
        assert len({tuple(names) for names in by}) > 6

    def test_takes_an_adapter_folder_from_elsewhere(self, run, made, tmp_path):
        shutil.copytree(run / "dpo", tmp_path / "mine")
        one, other = made(adapters=["mine"]), made(adapters="dpo", name="other")
        assert [[a.text for a in item.answers] for item in plain(one)] == [
            [a.text for a in item.answers] for item in plain(other)
        ]
        assert plain(one)[0].answers[0].made["adapter"] == "mine"

    @pytest.mark.parametrize("adapters", [["sft", "dpo"], ["sft", "base"]])
    def test_of_greedy_ones_has_each_one_s_answer(self, made, adapters):
        project = made(adapters=adapters, k=2, temperature=0)
        assert all({a.made["adapter"] for a in item.answers} == set(adapters) for item in plain(project))

    def test_draws_from_each_adapter_what_that_adapter_samples(self, run):
        base, (sft, bare), prompts = toy(run), find_writers(["sft", "base"], RunFolder(run)), ids_of(run)
        how = How(2, 1.0, 6, 3, 32)
        roles = policy_roles(base.causal_lm(), run / "sft", trainable=False)
        twice = [ids for ids in prompts for _ in range(2)]
        for writer, role in ((sft, "policy"), (bare, None)):
            drawn = draw_answers(base, run / "sft", [writer], prompts, how)
            wanted = [base.codec.text(ids) for ids in sample_roles(roles, role, twice, 6, 1.0, 3, 32)]
            assert sorted(a.text for answers in drawn.answers for a in answers) == sorted(wanted)

    @pytest.mark.parametrize("nf4", [False, True])
    def test_the_base_alone_has_no_adapter_and_the_flags_stay(self, run, nf4):
        base, prompts = toy_base(nf4), ids_of(run)
        roles, bare = policy_roles(base.causal_lm(), run / "sft", trainable=True), base.causal_lm()
        without_dropout(bare)

        def flags():
            return [p.requires_grad for p in roles.model.parameters()], [m.training for m in roles.model.modules()]

        before = flags()
        found = sample_roles(roles, None, prompts, 6, 0.0, 0, 32)
        assert found == sample_responses(bare, prompts, 6, 32, 0.0).ids
        assert found != sample_roles(roles, "policy", prompts, 6, 0.0, 0, 32)
        assert before == flags()

    def test_progress_hears_of_every_batch(self, run):
        roles, heard = policy_roles(toy(run).causal_lm(), run / "sft", trainable=False), []
        sample_roles(roles, "policy", ids_of(run), 2, 1.0, 0, 3, told=heard.append)
        assert heard == [3, 4]


def toy(run):
    from kit.models.base import find_base

    return find_base(kit.load_config(run / "config.yaml"))


def ids_of(run):
    codec = toy(run).codec
    return [codec.prompt([{"role": "user", "content": text}]) for text in PROMPTS]


class Scripted:
    """In place of sampling: each call gives every prompt the next of these texts; the last one for ever."""

    def __init__(self, monkeypatch, run, *texts, ended=True):
        tokenizer = toy(run).tokenizer
        end = [tokenizer.eos_token_id] if ended else []
        self.answers = [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in texts]
        self.calls: list[int] = []
        monkeypatch.setattr(draw, "sample", self)

    def __call__(self, roles, role, prompts, *_):
        start = sum(self.calls)
        self.calls.append(len(prompts))
        return [self.answers[min(start + n, len(self.answers) - 1)] for n in range(len(prompts))]


class TestWhatIsDrawnInVain:
    def test_is_drawn_again(self, run, made, monkeypatch, capsys):
        script = Scripted(monkeypatch, run, "A cat.", "A cat.", "A dog.", "a CAT.", "A fish.", "A crab.")
        (item,) = plain(made(PROMPTS[:1]))
        assert sorted(answer.text for answer in item.answers) == ["A cat.", "A crab.", "A dog.", "A fish."]
        assert script.calls == [4, 2] and len({answer.made["seed"] for answer in item.answers}) == 2
        out = capsys.readouterr().out
        assert "sft draws 2 again" in out and "2 near-duplicate(s) and 0 empty answer(s) were not taken" in out

    def test_is_given_up_after_some_tries_with_an_answer_less(self, run, made, monkeypatch, capsys):
        script = Scripted(monkeypatch, run, "A cat.", "A dog.")
        (item,) = plain(made(PROMPTS[:1]))
        assert sorted(answer.text for answer in item.answers) == ["A cat.", "A dog."]
        assert script.calls == [4, 2, 2, 2]
        assert "1 item(s) have fewer than 4 answers" in capsys.readouterr().out

    def test_leaves_prompts_out_that_got_one_answer_and_says_how_many(self, run, made, monkeypatch, capsys):
        Scripted(monkeypatch, run, "A cat.", "A dog.", "A cat.", "A cat.")
        (item,) = plain(made(PROMPTS[:2], k=2))
        assert item.prompt[0]["content"] == PROMPTS[0] and item.name == "p0001"
        assert "1 of 2 prompts are left out" in capsys.readouterr().out

    def test_is_an_error_where_nothing_is_left(self, run, made, monkeypatch, tmp_path):
        Scripted(monkeypatch, run, "A cat.")
        with pytest.raises(DataError, match="none of 4 prompts got two different answers"):
            made()
        assert not (tmp_path / "labels").exists()

    def test_an_answer_that_was_cut_off_is_kept_marked_and_counted(self, run, made, monkeypatch, capsys):
        Scripted(monkeypatch, run, "A cat", "A dog", ended=False)
        (item,) = plain(made(PROMPTS[:1], k=2))
        assert [answer.made["ended"] for answer in item.answers] == [False, False]
        assert "2 of 2 answers were cut off at 6 tokens" in capsys.readouterr().out

    def test_one_that_ended_is_not(self, run, made, monkeypatch, capsys):
        Scripted(monkeypatch, run, "A cat.", "A dog.")
        (item,) = plain(made(PROMPTS[:1], k=2))
        assert [answer.made["ended"] for answer in item.answers] == [True, True]
        assert "cut off" not in capsys.readouterr().out


GOLD = [{"prompt": "Name a pet.", "answers": ["A cat.", "A stone.", "A dog."], "ranks": [1, 3, 1]},
        {"prompt": "Name a fruit.", "answers": ["A car.", "A plum."], "ranks": [2, 1]}]  # fmt: skip


class TestGold:
    def test_is_mixed_in_with_its_right_ranks(self, made):
        found = [item for item in made(gold=GOLD).items.values() if item.gold is not None]
        assert [(item.prompt[0]["content"], item.gold) for item in found] == [
            ("Name a pet.", (1, 2, 1)), ("Name a fruit.", (2, 1)),
        ]  # fmt: skip
        assert [answer.text for answer in found[0].answers] == ["A cat.", "A stone.", "A dog."]

    def test_may_have_any_form_of_preferences(self, made):
        (item,) = [i for i in made(gold=ROWS[:1]).items.values() if i.gold is not None]
        assert item.gold == (1, 2) and [answer.text for answer in item.answers] == ["A cat and 0 dogs.", "No."]

    @pytest.mark.parametrize(
        "row, says",
        [
            (GOLD[0], "row 3: the prompt stands at --gold row 1 already"),
            ({"prompt": "P?", "answers": ["a", "b"], "ranks": [1, 1]}, "row 3: all ranks are equal"),
            ({"prompt": "P?", "answers": ["a", "b", "c"], "ranks": [1, 2, None]}, "row 3: an answer has no rank"),
            ({"prompt": "P?", "answers": ["a"], "ranks": [1]}, "row 3: 1 answers; 2 to 9 are wanted"),
            ({"prompt": "P?", "answers": ["a", " "], "ranks": [1, 2]}, "row 3: an answer is empty"),
        ],
    )
    def test_that_cannot_be_right_is_refused(self, made, row, says):
        with pytest.raises(DataError, match=re.escape(says)):
            made(gold=[*GOLD, row])


@pytest.fixture
def nothing_loads(monkeypatch):
    def never(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("kit.models.base.find_base", never)


@pytest.mark.usefixtures("nothing_loads")
class TestWhatIsRefused:
    """Before weights are loaded, and with nothing written."""

    @pytest.mark.parametrize(
        "more, says",
        [
            ({"k": 1}, "--k 1: a whole number from 2 to 9 is wanted"),
            ({"k": 10}, "--k 10"),
            ({"max_tokens": -1}, "--max-tokens -1"),
            ({"limit": 0}, "--limit 0: a whole number from 1 up is wanted"),
            ({"seed": -1}, "--seed -1"),
            ({"per_item": 0}, "--per-item 0"),
            ({"batch_size": 0}, "--batch-size 0"),
            ({"temperature": -1.0}, "--temperature -1.0"),
            ({"temperature": float("nan")}, "--temperature nan"),
            ({"temperature": 0}, "greedy decoding has one answer to a prompt, and k is 4 with 1 adapter"),
            ({"repeats": 0.6}, "--repeats 0.6: a share from 0 to 0.5 is wanted"),
            ({"overlap": 2}, "--overlap 2"),
            ({"name": "a/b"}, "a name alone is wanted"),
            ({"name": ".hidden"}, "a project's name has letters"),
            ({"name": ""}, "a name alone is wanted"),
            ({"guidelines": "gone.md"}, "--guidelines gone.md: cannot be read"),
            ({"gold": "gone.jsonl"}, "--gold: no such file: gone.jsonl"),
            ({"gold": [{"prompt": "P?"}]}, "no preferences"),
            ({"prompts": "gone.jsonl"}, "--prompts: no such file: gone.jsonl"),
            ({"adapters": []}, "--adapter: none given; wanted dpo, sft, base, or a folder"),
            ({"adapters": ["ppo"]}, "--adapter ppo: no finished stage of this run, and no adapter folder; wanted dpo"),
            ({"adapters": ["sft", "sft"]}, "--adapter sft: stands twice"),
            ({"adapters": ["reward"]}, "--adapter reward: a reward model scores answers and writes none"),
            ({"adapters": [""]}, "no finished stage"),
            ({"adapters": [".."]}, "no finished stage"),
        ],
    )
    def test_says_what_is_wanted(self, run, tmp_path, monkeypatch, more, says):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(KitError, match=re.escape(says)):
            kit.sample(run, **{"prompts": PROMPTS, **more})
        assert list(tmp_path.iterdir()) == []

    def test_a_project_that_is_there_is_not_written_over(self, made, tmp_path):
        (tmp_path / "labels" / "toy").mkdir(parents=True)
        with pytest.raises(DataError, match=re.escape("labels/toy: is there already")):
            made()

    def test_what_is_no_run_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="no run folder"):
            kit.sample(tmp_path)

    def test_a_run_without_its_sft_adapter_is_refused(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "sft")
        with pytest.raises(RunError, match="its stage sft is not done"):
            kit.sample(tmp_path / "run", PROMPTS)


class TestAnAdapterOfAnotherBase:
    def test_is_refused_before_anything_is_drawn(self, run, made, tmp_path, monkeypatch):
        shutil.copytree(run / "dpo", tmp_path / "other")
        identity = json.loads((tmp_path / "other" / "base.json").read_text())
        (tmp_path / "other" / "base.json").write_text(json.dumps(identity | {"weights_sha256": "0" * 64}))
        script = Scripted(monkeypatch, run, "A cat.", "A dog.")
        with pytest.raises(ModelError, match="was trained on another base"):
            made(adapters=["sft", "other"])
        assert script.calls == [] and not (tmp_path / "labels").exists()


class TestTheCommand:
    def test_hands_on_its_options_and_says_what_to_type_next(self, run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
        (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOLD))
        result = CliRunner().invoke(app, [
            "sample", str(run), "--prompts", "asked.jsonl", "--k", "3", "--adapter", "dpo", "--adapter", "base",
            "--name", "mine", "--limit", "3", "--seed", "7", "--per-item", "2", "--gold", "gold.jsonl", "--repeats",
            "0.4", "--max-tokens", "4", "--temperature", "0.9", "--overlap", "0.1", "--batch-size", "2",
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("\nNext: kit label labels/mine\n")
        project = open_project(tmp_path / "labels" / "mine")
        assert (len(project.items), project.seed, project.per_item, project.overlap) == (6, 7, 2, 0.1)
        sampled = project.settings["sampled"]
        assert (sampled["k"], sampled["max_tokens"], sampled["temperature"]) == (3, 4, 0.9)
        assert [one["name"] for one in sampled["adapters"]] == ["dpo", "base"]

    def test_interrupted_leaves_nothing(self, run, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(draw, "sample", interrupted)
        result = CliRunner().invoke(app, ["sample", str(run)])
        assert result.exit_code == 130 and list(tmp_path.iterdir()) == []

    def test_a_mistake_is_a_message_and_exit_code_2(self, run):
        result = CliRunner().invoke(app, ["sample", str(run), "--k", "12"])
        assert (result.exit_code, result.stderr) == (2, "kit: error: --k 12: a whole number from 2 to 9 is wanted\n")

    def test_shows_itself_in_a_notebook(self, made):
        assert made(gold=GOLD)._repr_html_() == "<p>labels/toy: 7 items to rank, of which 1 repeat and 2 gold</p>"
