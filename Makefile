# Every target makes the virtual environment it needs; a second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types audit bench gpu-check clean
.DELETE_ON_ERROR:

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: its wheel is the large one, and a failed later step then does not fetch it again.
$(VENV)/.installed-%: pyproject.toml setup.py $(wildcard kernels/native/*.cpp kernels/native/*.h) | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet 'torch>=2.14' 'torchvision>=0.29'
	$(BIN)/python -m pip install --quiet -e '.[$*]'
	touch $@

$(VENV)/.peers: tests/peers.txt | $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --no-deps -r tests/peers.txt
	# The wheel of torchattacks holds an older copy of RobustBench, which may have come last.
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $$(grep ^robustbench tests/peers.txt)
	touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/cannonade demo

test: $(VENV)/.installed-dev $(VENV)/.peers
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --benchmark-disable

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not see through the import hook of an editable install, so it reads a plain one.
types: $(VENV)/.installed-dev
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/types .
	$(BIN)/mypy

audit: $(VENV)/.installed-dev
	$(BIN)/cannonade bench audit

bench: $(VENV)/.installed-dev $(VENV)/.peers
	$(BIN)/cannonade bench all --out runs/record

gpu-check: $(VENV)/.installed-dev $(VENV)/.peers
	$(BIN)/python -m cannonade.bench.gpu_check

clean:
	rm -rf $(VENV) build dist *.egg-info
