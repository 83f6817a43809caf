"""SIGKILL at random moments of the whole pipeline; many seeds by hand: python tests/kill_and_resume.py --seeds 40."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_and_resume.py")


@pytest.mark.pipeline
class TestKilled:
    def test_at_random_moments_and_resumed_it_is_the_unbroken_run(self):
        done = subprocess.run([sys.executable, str(SCRIPT), "--seeds", "4"], capture_output=True, text=True)
        assert done.returncode == 0 and "4 seeds, 0 problems" in done.stdout, done.stdout + done.stderr[-2000:]
        assert "killed at" in done.stdout and done.stdout.count("identical") == 4
