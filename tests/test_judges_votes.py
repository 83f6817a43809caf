"""People's votes as the judge."""

import json

import pytest

from kit.compare.judges.votes import judge_by_votes, votes_key
from kit.errors import DataError

PAIR = ("ppo", "dpo")
PROMPTS = [[{"role": "user", "content": text}] for text in ("Say hello.", "Name a fruit.", "Name a fruit.", "3")]
ANSWERS = {"ppo": ["Hello!", "An apple.", "A pear.", "Three?"], "dpo": ["Hi.", "A plum.", "A fig.", "Yes."],
           "sft": ["Hm.", "Hm.", "Hm.", "Hm."]}  # fmt: skip


def vote(prompt=1, winner="ppo", a="ppo", b="dpo", **more):
    return {"prompt": prompt, "a": a, "b": b, "winner": winner, **more}


@pytest.fixture
def judged(tmp_path):
    def judge(*votes, pairs=(PAIR,), name="votes.jsonl"):
        file = tmp_path / name
        file.write_text("".join(f"{json.dumps(row) if isinstance(row, dict) else row}\n" for row in votes))
        return judge_by_votes(file, PROMPTS, ANSWERS, list(pairs))

    return judge


class TestVotes:
    @pytest.mark.parametrize(
        "winner, outcome", [("ppo", 1), ("dpo", 0), ("tie", 0.5), ("a", 1), ("B", 0), (" Tie", 0.5)]
    )
    def test_decide_their_prompt_and_no_other(self, judged, winner, outcome):
        assert judged(vote(2, winner)).outcomes[PAIR] == [None, outcome, None, None]

    def test_may_name_the_arms_in_either_order(self, judged):
        assert judged(vote(1, "a", a="dpo", b="ppo")).outcomes[PAIR][0] == 0

    def test_of_several_people_make_their_mean(self, judged):
        votes = [vote(annotator=name, winner=winner) for name, winner in [("m", "ppo"), ("n", "ppo"), ("o", "dpo")]]
        verdicts = judged(*votes)
        assert verdicts.outcomes[PAIR][0] == pytest.approx(2 / 3)
        assert (verdicts.facts["votes"], verdicts.facts["annotators"]) == (3, 3)

    def test_agreement_is_the_share_of_pairs_of_people_who_voted_alike(self, judged):
        votes = [vote(annotator=name, winner=winner) for name, winner in [("m", "ppo"), ("n", "ppo"), ("o", "dpo")]]
        assert judged(*votes).facts["agreement"] == pytest.approx(1 / 3)
        assert judged(vote()).facts["agreement"] is None

    def test_of_the_same_person_replace_each_other(self, judged):
        verdicts = judged(vote(annotator="m"), vote(annotator="m", winner="b", a="dpo", b="ppo"),
                          vote(annotator="m", winner="dpo"))  # fmt: skip
        assert (verdicts.outcomes[PAIR][0], verdicts.facts["votes"]) == (0, 1)

    def test_without_a_name_each_count(self, judged):
        verdicts = judged(vote(), vote(winner="dpo"))
        assert (verdicts.outcomes[PAIR][0], verdicts.facts["votes"], verdicts.facts["annotators"]) == (0.5, 2, 0)

    @pytest.mark.parametrize("prompt", ["Say hello.", " Say hello. ", 1, "1", PROMPTS[0]])
    def test_find_their_prompt_by_number_text_or_messages(self, judged, prompt):
        assert judged(vote(prompt)).outcomes[PAIR] == [1, None, None, None]

    def test_on_pairs_that_are_not_compared_are_left_out(self, judged):
        assert judged(vote(), vote(2, "sft", b="sft")).outcomes[PAIR] == [1, None, None, None]

    def test_judge_every_pair_asked_for(self, judged):
        verdicts = judged(vote(), vote(2, "sft", b="sft"), pairs=[PAIR, ("ppo", "sft")])
        assert verdicts.outcomes["ppo", "sft"] == [None, 0, None, None]
        assert verdicts.facts["valid_prompts"] == 1

    def test_come_from_csv_too(self, judged):
        verdicts = judged("prompt,a,b,winner,annotator,answers", "1,ppo,dpo,ppo,m,", '"Say hello.",ppo,dpo,dpo,n,',
                          name="votes.csv")  # fmt: skip
        assert (verdicts.outcomes[PAIR][0], verdicts.facts["annotators"]) == (0.5, 2)


class TestStaleVotes:
    def test_on_these_answers_count(self, judged):
        verdicts = judged(vote(answers=votes_key("Hello!", "Hi.")), vote(2, a="dpo", b="ppo", winner="a",
                          answers=votes_key("A plum.", "An apple.")))  # fmt: skip
        assert verdicts.outcomes[PAIR] == [1, 0, None, None]
        assert (verdicts.facts["stale"], verdicts.facts["unchecked"]) == (0, 0)

    def test_on_other_answers_are_counted_and_left_out(self, judged, capsys):
        verdicts = judged(vote(answers=votes_key("Hello", "Hi.")), vote(2))
        assert verdicts.outcomes[PAIR] == [None, 1, None, None]
        assert (verdicts.facts["stale"], verdicts.facts["unchecked"]) == (1, 1)
        assert "1 votes were cast on other answers" in capsys.readouterr().err

    def test_alone_are_an_error(self, judged):
        with pytest.raises(DataError, match="all were cast on other answers"):
            judged(vote(answers="0" * 16))

    def test_the_key_depends_on_both_answers_and_their_order(self):
        keys = {votes_key("x", "y"), votes_key("y", "x"), votes_key("x", "z"), votes_key("xy", "")}
        assert len(keys) == 4 and all(len(key) == 16 for key in keys)


class TestVotesThatCannotBeUsed:
    @pytest.mark.parametrize(
        "row, says",
        [
            (vote(a="grpo"), "votes.jsonl:2: unknown arm 'grpo'; this comparison has ppo, dpo, sft"),
            (vote(b="ppo"), "a and b are the same arm"),
            (vote(5), "prompt 5; this comparison has prompts 1 to 4"),
            (vote(0), "prompt 0; this comparison has prompts 1 to 4"),
            (vote("Who?"), "unknown prompt 'Who\\?'"),
            (vote(1.5), "unknown prompt '1.5'"),
            (vote(True), "unknown prompt 'True'"),
            (vote("Name a fruit."), "2 prompts read 'Name a fruit.'; give the prompt's number"),
            (vote(winner="sft"), "winner 'sft'; wanted ppo, dpo, a, b or tie"),
            ({"prompt": 1, "a": "ppo"}, "votes.jsonl:2: has no b, winner"),
            ("[1]", "votes.jsonl:2: wanted an object"),
            ("{", "votes.jsonl:2: not JSON"),
        ],
    )
    def test_are_named_by_file_and_line(self, judged, row, says):
        with pytest.raises(DataError, match=says):
            judged(vote(), row)

    def test_in_csv_too(self, judged):
        with pytest.raises(DataError, match=r"votes\.csv:3: unknown arm 'x'"):
            judged("prompt,a,b,winner", "1,ppo,dpo,a", "1,x,dpo,a", name="votes.csv")
        with pytest.raises(DataError, match=r"votes\.csv:1: missing column\(s\) winner; found prompt, a, b"):
            judged("prompt,a,b", "1,ppo,dpo", name="votes.csv")

    def test_a_text_that_is_a_number_means_the_text(self, judged):
        assert judged(vote("3")).outcomes[PAIR] == [None, None, None, 1]

    def test_no_file_and_no_votes(self, judged, tmp_path):
        with pytest.raises(DataError, match="no such file of votes"):
            judge_by_votes(tmp_path / "gone.jsonl", PROMPTS, ANSWERS, [PAIR])
        with pytest.raises(DataError, match="no vote to judge by: there is none on the arms compared"):
            judged()
