"""A notebook's cell that is interrupted, in a real kernel: what it shows, and what running it again does."""

import json
import time

import pytest
from jupyter_client.manager import start_new_kernel
from toy import base_folder

CELL = """
import kit
run = kit.run_pipeline({config!r})
print("finished:", run.stages["sft"].adapter_sha256)
"""


def config(place, steps):
    return {
        "name": "toy", "output_dir": str(place), "stages": ["sft"], "model": {"base": str(base_folder())},
        "lora": {"rank": 4}, "sft": {"max_steps": steps, "batch_size": 8},
        "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    }  # fmt: skip


def run_cell(client, manager, code, interrupt_when=lambda: False):
    """(texts printed, errors) of a cell, which is interrupted once when that becomes true."""
    client.execute(code)
    printed, errors, interrupted = [], [], False
    while True:
        if not interrupted and interrupt_when():
            manager.interrupt_kernel()
            interrupted = True
        try:
            message = client.get_iopub_msg(timeout=0.1)
        except Exception:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        if message["msg_type"] == "error":
            errors.append(content)
        if message["msg_type"] == "status" and content["execution_state"] == "idle" and (printed or errors):
            return "".join(printed), errors


@pytest.mark.pipeline
class TestACell:
    def test_that_is_interrupted_shows_one_line_and_goes_on_when_it_is_run_again(self, tmp_path):
        manager, client = start_new_kernel()
        try:
            cell = CELL.format(config=config(tmp_path, 300))
            log = tmp_path / "toy" / ".sft-checkpoints" / "metrics.jsonl"
            printed, errors = run_cell(client, manager, cell, lambda: log.exists() and log.read_text().count("\n") > 1)
            said = "kit: the run was interrupted; run the same again, and it goes on from what is kept"
            assert [error["traceback"] for error in errors] == [[said]], printed
            assert "stops as soon as nothing is lost" in printed
            assert json.loads((tmp_path / "toy" / "run.json").read_text())["status"] == "interrupted"
            time.sleep(0.1)
            printed, errors = run_cell(client, manager, cell)
            assert not errors and "sft: goes on from step" in printed and "finished:" in printed
            printed, errors = run_cell(client, manager, cell)
            assert not errors and "all stages are done; nothing to train" in printed
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    def test_with_a_mistake_shows_the_message_alone(self, tmp_path):
        manager, client = start_new_kernel()
        try:
            cell = CELL.format(config=config(tmp_path, 2) | {"sft": {"epochz": 3}})
            _, errors = run_cell(client, manager, cell)
            (shown,) = errors[0]["traceback"]
            assert shown.startswith("kit: error: 1 problem in the configuration") and "epochz" in shown
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
