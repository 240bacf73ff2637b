# The two commands a newcomer needs are `make demo` and `make test`; both set up all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-scenarios check bench fuzz clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[agent,testbed,dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m testbed demo

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

FUZZ_S ?= 600

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	for target in proxy client_hello config; do \
		mkdir -p build/fuzz/$$target && $(BIN)/python -m fuzz.$$target -max_total_time=$(FUZZ_S) \
			-artifact_prefix=build/fuzz/$$target- build/fuzz/$$target fuzz/seeds/$$target || exit 1; \
	done

clean:
	rm -rf $(VENV) build report *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
