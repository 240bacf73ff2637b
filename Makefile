# The two commands a newcomer needs are `make demo` and `make test`; both set up all they need.
# The demo needs no torch: the agent runs the policy that comes with it. `make demo LEARN=1` does.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(if $(LEARN),$(VENV)/.learn,$(VENV)/.demo)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test test-slow test-scenarios check bench clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[agent,learn,testbed,sim,dev]'
	touch $@ $(VENV)/.learn $(VENV)/.demo

$(VENV)/.learn: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[agent,learn,testbed]'
	touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[agent,testbed]'
	touch $@

demo: $(DEMO_READY)
	$(BIN)/python -m testbed demo $(if $(LEARN),--learn)

test: check
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-scenarios: $(READY)
	timeout 1200 $(BIN)/python -m pytest -m scenario tests/scenarios

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m testbed bench

clean:
	rm -rf $(VENV) build report *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
