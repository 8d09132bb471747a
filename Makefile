# Each target creates the environment it needs: nothing but Python >= 3.11 has to be there.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash
# processes of one thread each, which would only wait for one another, and one more than two cores have, for tests that wait;
# a module at a time, the costly ones first (COSTLY in tests/conftest.py); bytecode is kept, or every process compiles it again
unexport PYTHONDONTWRITEBYTECODE
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder --durations 10

.PHONY: demo quick test test-slow test-lowest check install bench clean

install: $(STAMP)

# what is imported is compiled then; compiling every installed module takes two fifths of an installation
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("onepass needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/onepass demo --out demo-out

# two processes: each imports all that the tests need, which is a third of the time
quick: $(STAMP)
	$(PYTEST) -n 2 -m "not slow and not costly"

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# the oldest versions that pyproject.toml allows, on a Python that has wheels of them all; here a warning is no error
test-lowest:
	@$(PYTHON) -c 'import sys; sys.exit("test-lowest needs Python 3.11: make test-lowest PYTHON=python3.11") if sys.version_info[:2] != (3, 11) else None'
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --no-compile -c tests/lowest.txt -e '.[dev]'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -W default -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/cache_read.py
	$(BIN)/python benchmarks/extract.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
