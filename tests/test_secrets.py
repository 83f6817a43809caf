"""Secrets: refused in a configuration, and left out of everything that is shown or written."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from toy import base_folder

import kit
from kit import notices
from kit.compare.judges.endpoint import Endpoint
from kit.errors import ConfigError, KitError, MachineError
from kit.secrets import redacted, secret_problems

HF, OPENAI, WANDB = "hf_CanaryCanaryCanary01", "sk-proj-CanaryCanaryCanary02", "0123456789abcdef" * 2 + "c0ffee99"
OWN = "a canary without any form 03"  # under a variable that a user named


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in {"HF_TOKEN": HF, "OPENAI_API_KEY": OPENAI, "WANDB_API_KEY": WANDB, "MY_JUDGE": OWN}.items():
        monkeypatch.setenv(name, value)


def refusal(config: dict, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        kit.load_config(config, overrides)
    return str(caught.value)


def llm(**settings) -> dict:
    return {"compare": {"judge": "llm", "llm": {"model": "m", **settings}}}


class TestAConfiguration:
    @pytest.mark.parametrize(
        "config, place, variable",
        [
            ({"hf_token": "x1y2z3"}, "hf_token", "HF_TOKEN"),
            ({"token": "x1y2z3"}, "token", "the service"),
            ({"api_key": "x1y2z3"}, "api_key", "the service"),
            ({"wandb": {"api_key": "x1y2z3"}}, "wandb.api_key", "the service"),
            ({"sft": {"trl": {"hub_token": "x1y2z3"}}}, "sft.trl.hub_token", "HF_TOKEN"),
            ({"dpo": {"trl": {"model_init_kwargs": {"token": "x1y2z3"}}}}, "model_init_kwargs.token", "the service"),
            ({"sft": {"trl": {"project": "0123456789" * 4}}}, "sft.trl.project", "WANDB_API_KEY"),
            ({"password": "x1y2z3"}, "password", "the service"),
            (llm(api_key="x1y2z3"), "compare.llm.api_key", "OPENAI_API_KEY"),
            (llm(api_key_env="sk-x1y2z3x1y2z3x1y2z3"), "compare.llm.api_key_env", "OPENAI_API_KEY"),
            (llm(base_url="https://me:x1y2z3@host/v1"), "compare.llm.base_url", "OPENAI_API_KEY"),
            (llm(base_url="https://host/v1?api_key=x1y2z3"), "compare.llm.base_url", "OPENAI_API_KEY"),
            ({"data": {"preferences": "https://me:x1y2z3@host/rows.jsonl"}}, "data.preferences", "the service"),
            ({"data": {"prompts": {"path": "me/rows", "token": "x1y2z3"}}}, "data.prompts.token", "the service"),
            ({"data": {"prompts": ["https://me:x1y2z3@host/rows.jsonl"]}}, "data.prompts.0", "the service"),
            ({"name": "hf_x1y2z3x1y2z3x1y2z3"}, "name", "HF_TOKEN"),
            ({"ghp_x1y2z3x1y2z3x1y2z3": 1}, "[secret]", "the service"),
        ],
        ids=lambda value: str(value)[:50],
    )  # fmt: skip
    def test_with_a_secret_is_refused_with_where_it_belongs_and_without_the_secret(self, config, place, variable):
        message = refusal(config)
        assert f"{place}: looks like a secret" in message and variable in message
        assert "x1y2z3" not in message and "1234567890" not in message

    @pytest.mark.parametrize(
        "text", ["seed={}", "hf_token={}", "sft.trl.hub_token={}", "seed {}", "{}=1", "model.base={}"]
    )
    @pytest.mark.parametrize("secret", [HF, OPENAI])
    def test_with_a_secret_as_an_override_is_refused_without_it(self, text, secret):
        assert secret not in refusal({}, (text.format(secret),))

    def test_with_the_value_of_a_secret_variable_is_refused_whatever_its_form(self, monkeypatch):
        monkeypatch.setenv("JUDGE_TOKEN", "open sesame, please")
        message = refusal({"sft": {"trl": {"project": "x open sesame, please x"}}})
        assert "sft.trl.project" in message and "sesame" not in message

    def test_with_a_key_where_its_variable_is_named_is_refused_without_it(self):
        message = refusal(llm(api_key_env="open sesame"))
        assert "the name of an environment variable is wanted" in message and "sesame" not in message

    def test_with_what_only_looks_like_one_is_taken(self):
        trl = {"optim_args": "tokens=3", "run_tokens": None}
        raw = {
            "model": {"base": "me/model", "revision": "0123456789" * 4}, "name": "risk-adjusted-and-long-enough-a-name",
            "data": {"max_prompt_tokens": 99, "preferences": [{"prompt": HF, "token": "x", "chosen": {"secret": "y"}}]},
            "sft": {"trl": trl | {"pad_token": "<pad>", "eos_token": "x", "max_tokens": "9"}},
            **llm(api_key_env="MY_JUDGE"),
        }  # fmt: skip
        assert secret_problems(raw) == []


class TestAMessage:
    def test_shows_the_variables_name_in_the_place_of_its_value(self):
        assert str(KitError(f"refused: {HF}, {OPENAI}")) == "refused: [HF_TOKEN], [OPENAI_API_KEY]"

    def test_shows_no_secret_by_its_form(self):
        text = redacted("Bearer abcdefgh12 hf_abcdefghijklmnop1 https://me:pw@host/x?token=abc&x=1")
        assert text == "[secret] [secret] https://[secret]@host/x?token=[secret]&x=1"

    def test_that_a_run_says_shows_none(self, capsys):
        notices.say(HF)
        notices.warn(OPENAI)
        said = capsys.readouterr()
        assert HF not in said.out and OPENAI not in said.err

    def test_leaves_other_text_as_it_is(self):
        text = "task-learning-rate, 3 tokens, https://huggingface.co/a/b?x=1, key: value, sk-short, hf_hub"
        assert redacted(text) == text

    def test_keeps_values_that_are_no_secrets(self, monkeypatch):
        monkeypatch.setenv("KEY", "1")
        monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent.sock.12")
        assert redacted("1 in /tmp/agent.sock.12") == "1 in /tmp/agent.sock.12"

    def test_of_our_own_mistake_shows_none_in_its_traceback(self, tmp_path):
        code = (
            "import os, sys, kit.pipeline\n"
            "def broken(*_, **__): raise RuntimeError('header ' + os.environ['HF_TOKEN'] + '\\x1b[2J')\n"
            "kit.pipeline.run_pipeline = broken\n"
            "sys.argv = ['kit', 'run', 'x.yaml']\n"
            "from kit.cli import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and "RuntimeError: header [HF_TOKEN]" in done.stderr
        assert HF not in done.stdout + done.stderr and "\x1b" not in done.stderr


class Echo(BaseHTTPRequestHandler):
    """A server that repeats the key in all that it says: its status line, its errors, its answers."""

    how = "error"
    asked: ClassVar[list[str]] = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        said = self.headers["Authorization"] or "none"
        self.asked.append(said)
        if self.how == "status line":
            self.wfile.write(f"{said} is no HTTP\r\n\r\n".encode())
            return
        choice = {"message": {"role": "assistant", "content": f"[[A]] {said}"}, "finish_reason": "stop"}
        body = {"choices": [choice]} if self.how == "answer" else {"error": {"message": f"bad key {said}"}}
        content = json.dumps(body).encode()
        self.send_response({"answer": 200, "refusal": 401, "too long": 413}.get(self.how, 500))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo(monkeypatch):
    """Starts the server that repeats the key in one way, and gives its address."""
    started = []

    def start(how: str) -> str:
        monkeypatch.setattr(Echo, "how", how)
        monkeypatch.setattr(Echo, "asked", [])
        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Echo))
        threading.Thread(target=started[0].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{started[0].server_address[1]}/v1"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


class TestAServerThatRepeatsTheKey:
    @pytest.mark.parametrize("how", ["error", "refusal", "too long", "status line"])
    @pytest.mark.parametrize("variable, key", [("OPENAI_API_KEY", OPENAI), ("MY_JUDGE", OWN)])
    def test_in_its_errors_does_not_bring_it_into_a_message(self, echo, how, variable, key):
        with pytest.raises(Exception) as caught:
            Endpoint("m", echo(how), variable, 10, 0).complete("A or B?")
        assert key not in str(caught.value) + repr(caught.value)
        assert isinstance(caught.value, (ConfigError, MachineError)) or how == "too long"

    @pytest.mark.parametrize("variable, key", [("OPENAI_API_KEY", OPENAI), ("MY_JUDGE", OWN)])
    def test_in_its_answer_does_not_bring_it_into_what_is_kept(self, echo, variable, key):
        assert key not in json.dumps(Endpoint("m", echo("answer"), variable, 10, 0).complete("A or B?"))


@pytest.mark.pipeline
class TestARun:
    """A whole run with secrets in its environment, and a judge that repeats them."""

    def config(self, tmp_path: Path, url: str, variable: str) -> Path:
        settings = {
            "name": "canary", "output_dir": str(tmp_path / "runs"), "stages": ["sft", "dpo", "compare"],
            "model": {"base": str(base_folder())}, "lora": {"rank": 4},
            "data": {"eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
            "sft": {"max_steps": 1, "batch_size": 4},
            # Far enough to answer otherwise, so that the judge is asked.
            "dpo": {"max_steps": 3, "batch_size": 4, "snapshots": 0, "learning_rate": 0.05},
            "compare": {"prompts": 4, "validation_prompts": 0, "best_of": 0, "judge": "llm",
                        "llm": {"model": "m", "base_url": url, "api_key_env": variable, "max_retries": 0}},
        }  # fmt: skip
        (tmp_path / "run.yaml").write_text(json.dumps(settings))
        return tmp_path / "run.yaml"

    @pytest.mark.parametrize("how, code", [("answer", 0), ("error", 2)])
    def test_leaves_none_of_them_in_its_folder_or_its_output(self, tmp_path, echo, how, code):
        config = self.config(tmp_path, echo(how), "MY_JUDGE")
        done = subprocess.run(
            [sys.executable, "-m", "kit.cli", "run", str(config)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == code, done.stderr
        assert f"Bearer {OWN}" in Echo.asked
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name == "run.json" for path in files)
        for canary in (HF, OPENAI, WANDB, OWN):
            assert canary not in done.stdout + done.stderr
            assert [path for path in files if canary.encode() in path.read_bytes()] == []
