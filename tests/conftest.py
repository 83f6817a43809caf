"""What holds for the whole test session: no hub, one thread. Libraries read it when they are first imported."""

import os
import sys

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # torch.set_num_threads(1) for tests and their child processes, torch unimported

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

settings.register_profile("kit", deadline=None)  # a busy machine is no failure
settings.load_profile("kit")
