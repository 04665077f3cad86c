# Everything a contributor types. The first target of each kind makes .venv with pip; nothing else is needed.
#   make serve ARGS="--workers 2"      PYTHON=python3.12 make test      make test ARGS=tests/unit/wire
# Without a GPU, torch's CPU wheels are a fraction of the size: set PIP_EXTRA_INDEX_URL to PyTorch's index of them.
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install serve test soak check format-check lint types imports bench fmt train-demo clean

help:
	@echo "make serve       start NATS and every stage with the demo model on http://127.0.0.1:30000"
	@echo "make test        run the tests"
	@echo "make check       what CI runs: format, lint, types, import rules, tests"
	@echo "make lint        one of them; so are make format-check, make types and make imports"
	@echo "make fmt         format and fix what can be fixed"
	@echo "make soak        disturb a system at random for an hour; ARGS=\"--minutes 5\" for less"
	@echo "make bench       measure what the pipeline itself costs"
	@echo "make train-demo  train the demo model anew"
	@echo "make clean       remove .venv and every cache"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Millrace needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

serve: $(INSTALLED)
	@exec $(BIN)/millrace serve $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

check: format-check lint types imports test

format-check: $(INSTALLED)
	$(BIN)/ruff format --check .

lint: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports

fmt: $(INSTALLED)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

soak: $(INSTALLED)
	$(BIN)/python -m tests.chaos.soak $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m bench.pipeline $(ARGS)

train-demo: $(INSTALLED)
	$(BIN)/python -m launcher.demo.training $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
