# Every target sets up what it needs in .venv (pinned by constraints.txt); only Python 3.11+, make and pip are needed.
PYTHON ?= python3
BIN := .venv/bin
# One thread a test process: two processes share two cores, and spinning OpenMP threads would fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test test-slow check format up bench docs clean

help:
	@echo "make demo       fine-tune a small real model for a real task, end to end (minutes)"
	@echo "make up         Dagster UI and daemon, MLflow UI (after a demo or a run)"
	@echo "make test       the test suite, on real servers"
	@echo "make test-slow  the long tests: the whole chain with the real model on S3 and PostgreSQL"
	@echo "make check      format, lint, types, import contracts"
	@echo "make format     what check would complain of, mended"
	@echo "make docs       the documentation as a site"
	@echo "make bench      measurements against peers, into bench/results/"
	@echo "make clean      remove .venv and caches (keeps .finetune/, where your data and adapters are)"

.venv/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or 3.12 is needed, this is " + sys.version) if not (3, 11) <= sys.version_info < (3, 13) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/.run
	$(BIN)/finetune demo

up: .venv/.run
	$(BIN)/finetune up

test: .venv/.dev
	$(PYTEST) -n 2 --dist loadgroup

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev
	$(BIN)/python bench/evidence.py gates
	$(BIN)/python bench/evidence.py canary
	$(BIN)/python bench/evidence.py ppi
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/engine.py

docs: .venv/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/zensical build

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
