PY ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0  # make run TORCH=torch TORCH_INDEX="--index-url ..." for another build
TORCH_INDEX ?=
BIN := $(VENV)/bin

.PHONY: setup run test check format serve bench bench-parts bench-gpu zoo statistics browser

setup: $(VENV)/.ok

$(VENV)/.ok: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "Setting up $(VENV) (torch first; this takes a minute or two)"
	@$(PY) -m venv $(VENV)
	@$(BIN)/python -m pip install -q $(TORCH) $(TORCH_INDEX)
	@$(BIN)/python -m pip install -q -e '.[trainer]' -c constraints.txt
	@touch $@

$(VENV)/.test: $(VENV)/.ok
	@echo "Adding what the tests need"
	@$(BIN)/python -m pip install -q -e '.[trainer,test]' -c constraints.txt
	@touch $@

# The main job: does dropout help a small MLP on real MNIST digits, where, and how much?
run: $(VENV)/.ok
	@$(BIN)/dropt run --model mlp --dataset mnist10k

serve: $(VENV)/.ok
	$(BIN)/dropt serve

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not soak and not gpu and not netns and not zoo and not statistics and not browser"

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# dropt against Optuna + PyTorch by hand, the same work on the same cores; takes a few minutes.
bench: $(VENV)/.test
	$(BIN)/python tests/benchmarks/search.py

# Training steps, the dropout op and the service's bookkeeping, each against its peer; 20 minutes.
bench-parts: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.step
	$(BIN)/python -m tests.benchmarks.op
	$(BIN)/python -m tests.benchmarks.bookkeeping

# The checks and benchmarks that need a GPU; says so when there is none.
bench-gpu: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks.gpu

# Every structure and library model that dropt's sites are promised for; takes minutes.
zoo: $(VENV)/.test
	$(BIN)/python -m pytest -q -m zoo

# The simulations behind the verdict at their full sizes; takes long.
statistics: $(VENV)/.test
	$(BIN)/python -m pytest -q -s -m statistics -o faulthandler_timeout=0

# The report and the start page in a headless Chromium on PATH; says so when there is none.
browser: $(VENV)/.test
	$(BIN)/python -m pytest -q -rs -m browser tests/browser
