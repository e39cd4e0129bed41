# make demo: score the bundled checkpoint on the bundled text.  make test: the whole suite.  Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE_SOURCES := $(shell find csrc/core csrc/bind -name '*.cpp' -o -name '*.hpp' 2>/dev/null)

export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test bench fuzz lint clean dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "evalkit needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that no later step asks for another build of it
$(STAMP): $(BIN)/python pyproject.toml setup.py constraints.txt $(NATIVE_SOURCES)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt setuptools wheel pybind11 cython
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/evalkit eval --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	@! grep -rnE 'Python.h|pybind11' csrc/core || { echo "csrc/core must not know Python"; exit 1; }

bench: $(STAMP)
	$(BIN)/python -m benches

# ten minutes under the sanitizers; FUZZ_SECONDS=N for another time
fuzz: $(STAMP)
	$(BIN)/python -m benches.fuzz --seconds $(or $(FUZZ_SECONDS),600)

dist: $(STAMP)
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info evalkit/_native*.so .pytest_cache .hypothesis .ruff_cache
