# The two commands a newcomer needs are `make demo` and `make test`; both set up all they need.
# The demo needs no torch: the agent runs the policy that comes with it. `make demo LEARN=1` does.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(if $(LEARN),$(VENV)/.learn,$(VENV)/.demo)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

# Where `make install` puts things; docs/deployment.md has the layout. DESTDIR is for packagers.
# It needs no torch either, but with LEARN=1.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
EXTRAS ?= [agent,top$(if $(LEARN),$(COMMA)learn)]
COMMA := ,
LIB := $(PREFIX)/lib/lbd
UNITS := lbd.service lbd-agent.service lbd.socket

.PHONY: demo test test-slow test-scenarios testbed-deps testbed-smoke check bench \
    experiments fuzz docs install uninstall clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[agent,learn,top,testbed,lab,sim,dev]'
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

# Two files at a time: every test has to hold beside another. With SMOKE=1 the test of testbed-smoke
# is among them; it is skipped where this host cannot make the machines.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-fail-under=90 $(if $(SMOKE),-m 'not slow')

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-scenarios: $(READY)
	timeout 1200 $(BIN)/python -m pytest -m scenario tests/scenarios tests/lbd

# Both as root; docs/testbed.md.
testbed-deps:
	testbed/lab/deps.sh

testbed-smoke: $(READY)
	$(BIN)/python -m pytest -m smoke tests/lab

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m testbed bench

# ON=namespaces for real servers, as root; FULL=1 for hours instead of minutes.
experiments: $(READY)
	$(BIN)/python -m testbed run --all $(if $(ON),--on $(ON)) $(if $(FULL),--full)

docs: $(READY)
	$(BIN)/mkdocs build --strict

install:
	rm -rf build
	$(PYTHON) -m venv --clear $(DESTDIR)$(LIB)
	$(DESTDIR)$(LIB)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.$(EXTRAS)'
	sed -i '1,3s,$(DESTDIR)$(LIB),$(LIB),' $(DESTDIR)$(LIB)/bin/lb*
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	for path in $(DESTDIR)$(LIB)/bin/lb*; do \
	    ln -sf $(LIB)/bin/$${path##*/} $(DESTDIR)$(PREFIX)/bin/; done
	for unit in $(UNITS); do sed 's,/usr/local,$(PREFIX),;s,/etc/lbd,$(SYSCONFDIR)/lbd,' \
	    deploy/systemd/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done
	install -D -m 644 deploy/systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/lbd.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/lbd README.md LICENSE docs/*.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/lbd/img docs/img/*.*
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/lbd/img/results docs/img/results/*
	test -e $(DESTDIR)$(SYSCONFDIR)/lbd/lbd.yaml || { \
	    install -d $(DESTDIR)$(SYSCONFDIR)/lbd && \
	    sed 's,save: state,save: /var/lib/lbd,;s,^# api: ,api: ,' deploy/lbd.yaml > $(DESTDIR)$(SYSCONFDIR)/lbd/lbd.yaml; }

# The configuration and what was learned (/var/lib/lbd) stay.
uninstall:
	rm -rf $(DESTDIR)$(LIB) $(DESTDIR)$(PREFIX)/share/doc/lbd $(DESTDIR)$(PREFIX)/lib/sysusers.d/lbd.conf
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,lbd lbd-agent lbctl)

FUZZ_S ?= 600

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	for target in proxy client_hello feedback peers config; do \
		mkdir -p build/fuzz/$$target && $(BIN)/python -m fuzz.$$target -max_total_time=$(FUZZ_S) \
			-artifact_prefix=build/fuzz/$$target- build/fuzz/$$target fuzz/seeds/$$target || exit 1; \
	done

clean:
	rm -rf $(VENV) build report *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
