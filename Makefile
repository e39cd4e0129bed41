# make demo: score the bundled checkpoint on the bundled text.  make test: the fast suite.  All set up .venv first.
# make test-all: the slow proofs too (@pytest.mark.slow).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?= tests
NATIVE_SOURCES := $(shell find csrc/core csrc/bind -name '*.cpp' -o -name '*.hpp' 2>/dev/null) $(wildcard train/data/*.pyx)

export OMP_WAIT_POLICY ?= PASSIVE

# EVALKIT_SANITIZE=address,undefined make test: what loads the native module, and the C++ tests, under the sanitizers.  Their
# runtimes must be there before Python's own code, and libstdc++ with them, or exceptions cannot be caught.  CONTRIBUTING.md
# says what is left out and why.
ifneq ($(EVALKIT_SANITIZE),)
export EVALKIT_SANITIZE
STAMP := $(VENV)/.installed-sanitized
LEFT_OUT := tests/unit/test_card.py tests/unit/test_train_% tests/dist/test_train_%
TESTS := tests/native tests/laws tests/golden tests/cli $(filter-out $(LEFT_OUT),$(wildcard tests/dist/test_*.py tests/unit/test_*.py))
RUNTIME = $(foreach lib,libasan.so libubsan.so libstdc++.so.6,$(shell $(or $(CXX),g++) -print-file-name=$(lib)))
UNDER := env LD_PRELOAD="$(RUNTIME)" ASAN_OPTIONS=detect_leaks=0
endif

.PHONY: demo test test-all bench fuzz lint docs clean dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "evalkit needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that no later step asks for another build of it
$(STAMP): $(BIN)/python pyproject.toml setup.py constraints.txt $(NATIVE_SOURCES)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt setuptools wheel pybind11 cython
	rm -f evalkit/_native*.so $(VENV)/.installed*
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/evalkit eval --out runs/demo

test: $(STAMP)
	$(UNDER) $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-all: $(STAMP)
	EVALKIT_HYPOTHESIS=all $(UNDER) $(BIN)/python -m pytest -n 2 --dist worksteal -m '' $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	@! grep -rnE 'Python.h|pybind11' csrc/core || { echo "csrc/core must not know Python"; exit 1; }

bench: $(STAMP)
	$(BIN)/python -m benches

# ten minutes for each target under the sanitizers; FUZZ_SECONDS=N for another time
fuzz: $(STAMP)
	$(BIN)/python -m benches.fuzz --seconds $(or $(FUZZ_SECONDS),600)

# the site, from docs/, the docstrings and the help of every verb, into build/site
docs: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt "mkdocs-material>=9.5" "mkdocstrings-python>=1.10"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

dist: $(STAMP)
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info evalkit/_native*.so train/data/_gather*.so train/data/_gather.c .pytest_cache .hypothesis .ruff_cache
