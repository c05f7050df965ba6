# `make demo` and `make test` each start from a fresh clone with Python >= 3.11 and make.

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo

.PHONY: demo test lint bench docs faults clean

demo: .venv/installed
	@rm -rf $(DEMO)
	$(BIN)/latens train digits --likelihood gaussian --out $(DEMO)

test: .venv/installed-test lint
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

docs: .venv/installed-test
	$(BIN)/mkdocs build

faults: .venv/installed-test
	$(BIN)/python tests/faults.py
	$(BIN)/python tests/resumes.py
	$(BIN)/python tests/kills.py

bench: .venv/installed-bench
	$(BIN)/python benchmarks/run.py $(BENCH)

lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

.venv/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "latens needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable . --constraint constraints.txt
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test]" --constraint constraints.txt
	@touch $@ .venv/installed

.venv/installed-bench: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[bench]" --constraint constraints.txt
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis
