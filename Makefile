# `make quickstart` sees the whole of RLHF on this machine; `make test` proves that it works. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# A process per core, each test file in one of them; every test computes in one thread (tests/conftest.py).
SIDE_BY_SIDE := -n auto --dist loadfile

# matplotlib would keep its list of fonts in the home directory.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib

# Stamps: an installation is repeated when the pins or the package's own list of dependencies changed, else not.
VENV_STAMP := $(VENV)/.created
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test test-slow test-kill test-label-stress test-gpu lint types check bench bench-learning bench-memory parity constraints

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(RUN_STAMP)  ## install into .venv, run configs/quickstart.yaml, say where the report is
	$(BIN)/kit run configs/quickstart.yaml
	@echo
	@echo "Next: $(BIN)/kit --help, or notebooks/01_quickstart.ipynb"

test: $(DEV_STAMP) check  ## lint, types, fast tests, then the pipeline, README, configs and notebook at toy size
	$(PYTEST) $(SIDE_BY_SIDE) -m "not pipeline and not slow and not gpu"
	$(PYTEST) $(SIDE_BY_SIDE) -m "pipeline and not slow and not gpu"

test-slow: $(DEV_STAMP)  ## the tests that take longer than a coffee
	$(PYTEST) -m "slow and not gpu"

test-kill: $(DEV_STAMP)  ## SIGKILL at random moments of every stage, resumed and compared, 40 seeds (a quarter of an hour)
	$(BIN)/python tests/kill_and_resume.py --seeds 40

test-label-stress: $(DEV_STAMP)  ## 50 annotators, 10,000 rankings, the server killed five times: nothing lost, nothing twice (a minute)
	$(BIN)/python tests/label_stress.py

test-gpu: $(DEV_STAMP)  ## the tests that need a CUDA GPU
	$(PYTEST) -m gpu

check: lint types  ## lint and types

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

bench: $(DEV_STAMP)  ## the benchmarks, each number beside its goal: start-up, and PPO beside TRL 1.12 (half an hour)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/ppo_vs_trl.py

bench-learning: $(DEV_STAMP)  ## true reward of our PPO beside TRL 1.12's on the demo world (half an hour)
	$(BIN)/python benchmarks/ppo_learning_vs_trl.py

bench-memory: $(DEV_STAMP)  ## memory of every stage on the GPU here, beside what is predicted (ten minutes)
	$(BIN)/python benchmarks/gpu_memory.py

parity: $(DEV_STAMP)  ## record TRL 1.12's numbers anew (tests/parity); tests/test_ppo_parity.py compares ours with them
	$(BIN)/python tests/parity/record.py

install: $(RUN_STAMP)  ## what `make quickstart` installs, without running it
install-dev: $(DEV_STAMP)  ## the same and what the tests need

$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone, so that nothing installed later brings another one.
$(RUN_STAMP): $(VENV_STAMP) pyproject.toml constraints.txt
	@echo "Installing; the first time takes some minutes."
	$(PIP) install torch -c constraints.txt
	$(PIP) install -e . -c constraints.txt
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(PIP) install -e '.[dev]' -c constraints.txt
	@touch $@

# The newest versions that pyproject.toml allows, from an environment of their own. torch stays where it is pinned.
constraints:  ## write constraints.txt anew: torch as pinned, the newest of everything else; then run `make test`
	rm -rf build
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip --quiet install "$$(grep '^torch==' constraints.txt)"
	build/constraints/bin/python -m pip --quiet install '.[dev]'
	{ sed '/^[^#]/,$$d' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude rlhf-kit \
	  --exclude pip --exclude wheel | sed -E '/^(nvidia|cuda|triton)/d; /@ /d; s/\+.*//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build
