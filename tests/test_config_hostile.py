"""Configurations made to run code, to take all time and memory, or to say two things at once."""

import time

import pytest

import kit
from kit.config_file import MAX_BYTES
from kit.errors import ConfigError

TRAP = "touch it-ran"


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """The message for a YAML text, which comes within seconds and is no longer than a screen."""
    monkeypatch.chdir(tmp_path)

    def refusal(text: str | bytes = "", *overrides: str) -> str:
        (tmp_path / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        started = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            kit.load_config("c.yaml", overrides)
        assert time.monotonic() - started < 20
        assert not (tmp_path / "it-ran").exists() and len(str(caught.value)) < 10_000
        return str(caught.value)

    return refusal


class TestAFile:
    @pytest.mark.parametrize(
        "text",
        [
            f"name: !!python/object/apply:os.system ['{TRAP}']\n",
            f"!!python/object/new:os.system ['{TRAP}']\n",
            "%TAG ! tag:yaml.org,2002:python/\n---\nname: !name:os.system x\n",
            "name: !!binary aGVsbG8=\n",
            "stages: !!set {sft}\n",
            "seed: !evil 1\n",
        ],
    )
    def test_with_a_tag_is_refused(self, refusal, text):
        assert "YAML tags (" in refusal(text)

    @pytest.mark.parametrize(
        "text",
        ["seed: 1\nseed: 2\n", "seed: 1\n'seed': 2\n", "sft: {batch_size: 4, batch_size: 8}\n", "1: a\n'1': b\n",
         "data: {preferences: [{path: a, path: b}]}\n"],
    )  # fmt: skip
    def test_that_gives_a_key_twice_is_refused(self, refusal, text):
        assert "key given twice" in refusal(text)

    @pytest.mark.parametrize("text", ["seed: 1\n<<: {seed: 2}\n", "sft:\n  <<: {batch_size: 4}\n  batch_size: 8\n"])
    def test_that_merges_another_value_in_is_refused(self, refusal, text):
        assert "merge keys (<<) are not allowed" in refusal(text)

    def test_with_an_alias_is_refused(self, refusal):
        assert "aliases (*a)" in refusal("a: &a [x, x]\nb: [*a, *a]\n")

    @pytest.mark.parametrize("text", ["a: " + "[" * 50_000 + "]" * 50_000, "{a: " * 3_000 + "1" + "}" * 3_000])
    def test_that_nests_deep_is_refused(self, refusal, text):
        assert "nested more than 32 deep" in refusal(text)

    @pytest.mark.parametrize(
        "text", ["\n".join(f"k{i}: 1" for i in range(80_000)), "stages: [" + "sft," * 200_000 + "]"]
    )
    def test_with_too_many_entries_is_refused(self, refusal, text):
        assert "more than 10,000 keys and values" in refusal(text)

    def test_that_is_too_large_is_refused_unread(self, refusal):
        assert f"at most {MAX_BYTES:,}" in refusal("#" + "x" * MAX_BYTES)

    @pytest.mark.parametrize(
        "text",
        ["name: a\x00b\n", 'name: "a\\0b"\n', "seed: " + "9" * 10_000, "seed: 0x" + "f" * 9_000, "seed: 1e999999",
         "sft: {learning_rate: .nan}", "ppo: {kl_coef: .inf}", "sft: {trl: {weight_decay: .nan}}",
         "sft: {trl: {lr_scheduler_kwargs: {a: [.inf]}}}", "seed: " + "1" * 300_000 + "e5", b"\xff\xfes\x00", "seed: =",
         "? [a]\n: 1\n", "seed: 1\n---\nseed: 2\n", "- 1\n", "1: 2\n", "~: 2\n", "x" * 90_000 + ": 1\n"],
        ids=range(18),
    )  # fmt: skip
    def test_with_what_no_setting_can_be_is_refused(self, refusal, text):
        refusal(text)

    def test_with_many_problems_tells_the_first_of_them(self, refusal):
        message = refusal("\n".join(f"k{i}: 1" for i in range(100)))
        assert message.startswith("100 problems") and message.endswith("… and 80 more")

    def test_shows_no_control_character_of_its_own(self, refusal):
        assert "\x1b" not in refusal('"\\e[2Jx": 1\nname: "\\e[2J\\u202e"\n')


class TestAnOverride:
    @pytest.mark.parametrize(
        "text",
        [
            f"name=!!python/object/apply:os.system ['{TRAP}']",
            "sft={batch_size: 4, batch_size: 8}",
            "a=" + "[" * 50_000,
            "." * 5_000 + "=1",
            "seed=" + "9" * 9_000,
            "seed=" + "y" * 2_000_000,
            "x" * 100_000 + "=1",
            "x" * 100_000,
            "__class__=1",
            "name=\x1b[2J",
            "sft={<<: {batch_size: 4}}",
        ],
        ids=range(11),
    )
    def test_is_held_to_the_same(self, refusal, text):
        assert "\x1b" not in refusal("", text)
