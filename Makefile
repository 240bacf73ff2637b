# The two commands a newcomer needs are `make demo` and `make test`; both set up all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-scenarios check bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[agent,testbed,sim,dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m testbed demo

test: check
	$(BIN)/python -m pytest --cov --cov-fail-under=90

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
	rm -rf $(VENV) build report *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
