"""Ctrl-C and SIGTERM: once, a run ends where nothing is lost; twice, at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kit.runs import signals

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def at_a_terminal():
    """A shell starts what it puts into the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def default_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def send(number):
    os.kill(os.getpid(), number)


class TestWithNobodyListening:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_the_first_ends_the_block_with_the_code_of_the_shells(self, number, code):
        with pytest.raises(signals.Interrupted) as caught, signals.handled():
            send(number)
        assert caught.value.exit_code == code and not isinstance(caught.value, signals.AskedToStop)

    def test_it_is_a_keyboard_interrupt_so_that_no_except_exception_swallows_it(self):
        assert issubclass(signals.Interrupted, KeyboardInterrupt) and not issubclass(signals.Interrupted, Exception)


class TestListening:
    def test_the_first_is_noted_and_said(self, capsys):
        with signals.handled(), signals.listening():
            send(signal.SIGTERM)
            assert signals.asked() == signal.SIGTERM
        assert "saves a checkpoint. Ctrl-C again stops at once" in capsys.readouterr().err

    def test_the_second_ends_at_once(self, capsys):
        with pytest.raises(signals.Interrupted) as caught, signals.handled(), signals.listening():
            send(signal.SIGINT)
            send(signal.SIGINT)
        assert not isinstance(caught.value, signals.AskedToStop)

    def test_who_listens_can_ask(self, capsys):
        with signals.handled(), signals.listening():
            signals.stop_if_asked()
            send(signal.SIGINT)
            with pytest.raises(signals.AskedToStop):
                signals.stop_if_asked()


class TestAfterIt:
    def test_the_handlers_are_whose_they_were(self):
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(KeyError), signals.handled():
            raise KeyError
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before

    def test_nothing_is_asked_any_more(self, capsys):
        with signals.handled(), signals.listening():
            send(signal.SIGINT)
        assert signals.asked() is None

    def test_what_is_ignored_stays_ignored_as_under_nohup(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with signals.handled():
                send(signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_in_a_thread_of_its_own_nothing_is_changed(self):
        found = []

        def run():
            with signals.handled():
                found.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert found == [signal.getsignal(signal.SIGINT)]


CONFIG = """
name: toy
output_dir: {runs}
stages: [sft, reward, {stage}]
data: {{preferences: demo, eval_fraction: 0.05, max_prompt_tokens: 64, max_response_tokens: 32}}
sft: {{max_steps: {sft}, batch_size: 8}}
reward: {{max_steps: 2, batch_size: 8}}
dpo: {{max_steps: 400, batch_size: 8}}
ppo: {{episodes: 1600, batch_size: 4, num_mini_batches: 2, force: true, guards_off: [eos, length, critic]}}
"""


@pytest.mark.pipeline
class TestARun:
    """`kit run` in a process of its own, asked to end in the middle of a stage."""

    @pytest.mark.parametrize(
        ("number", "code", "stage", "steps"),
        [(signal.SIGINT, 130, "dpo", 2), (signal.SIGTERM, 143, "ppo", 2), (signal.SIGTERM, 143, "sft", 400)],
    )
    def test_ends_with_a_checkpoint_and_the_line_that_resumes(self, tmp_path, number, code, stage, steps):
        config = tmp_path / "toy.yaml"
        config.write_text(CONFIG.format(runs=tmp_path / "runs", stage="dpo" if stage == "sft" else stage, sft=steps))
        run = tmp_path / "runs" / "toy"
        command = [sys.executable, "-m", "kit.cli", "run", str(config)]
        with subprocess.Popen(
            command, stdout=-1, stderr=-1, text=True, cwd=REPOSITORY, preexec_fn=default_interrupt
        ) as process:
            log = run / f".{stage}-checkpoints" / "metrics.jsonl"
            while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 1):
                time.sleep(0.02)
            process.send_signal(number)
            _, error = process.communicate()
        assert process.returncode == code, error
        assert error.rstrip().endswith(f"kit: interrupted; what was done is kept. Go on with: kit run {config}")
        assert "saves a checkpoint" in error and "Traceback" not in error
        ledger = json.loads((run / "run.json").read_text())
        assert ledger["status"] == ledger["stages"][stage]["status"] == "interrupted"
        saved = list((run / f".{stage}-checkpoints").glob("checkpoint-*/MANIFEST.json"))
        assert saved and not list(run.rglob("*.tmp")) and not (run / stage).exists()
