# Everything a person does with this project. Needs Python 3.11+ and make; the rest comes into .venv by itself.
# `make` alone lists the targets. Options of a target's program: make test ARGS="tests/local -x"

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
ARGS   ?=

# Compiled once, not by each of the hundred processes of a test run: half a second of CPU for every start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo dev up worker stop status reset settings test test-fast bench faults abuse simulate timemachine audit lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in requirements.lock (the other targets do it by themselves)

demo: $(READY) ## Kafka, PostgreSQL, a worker and sample orders; then addresses and the next things to try
	@$(PY) -m local demo --with-parent

dev: $(READY) ## the same without samples, with the worker's log on the terminal
	@$(PY) -m local dev --with-parent

up: $(READY) ## Kafka and PostgreSQL alone, until Ctrl-C: for commands that need the workers stopped
	@$(PY) -m local up --with-parent $(ARGS)

worker: $(READY) ## a worker on what `make up` started; another beside it: ORDERSTREAM_WEB_PORT=6067 make worker
	@exec $(VENV)/bin/faust -A app worker

stop: $(READY) ## end what runs on the data directory
	@$(PY) -m local stop

status: $(READY) ## what runs on the data directory, and whether it answers
	@$(PY) -m local status

reset: $(READY) ## delete the data directory's log and all that belongs to it, after a question; ARGS=--yes
	@$(PY) -m local reset $(ARGS)

settings: $(READY) ## every setting, its default and its reason
	@$(PY) -m schemas.settings

test: $(READY) ## all tests, in two processes, each with a real Kafka and a real PostgreSQL
	@$(PY) -m pytest -n 2 --dist loadscope $(ARGS)

test-fast: $(READY) ## the tests that need no broker, in about three minutes
	@$(PY) -m pytest -n 2 --dist loadscope -m "not broker" $(ARGS)

bench: $(READY) ## speed beside Kafka Streams, Quix and Faust; LINES=throughput,latency ROUNDS=3 SCALE=1
	@LINES="$(LINES)" ROUNDS="$(ROUNDS)" SCALE="$(SCALE)" $(PY) -m bench

faults: $(READY) ## the fault runs of docs/faults.md: FAULTS=1,2,5 SEED=7 ROUNDS=3 ARGS="--json faults.json"
	@$(PY) -m tests.faults --faults "$(FAULTS)" --seed "$(SEED)" --rounds "$(ROUNDS)" $(ARGS)

abuse: $(READY) ## five minutes of hostile records and requests beside 500 orders/s (row 50 of the faults)
	@$(PY) -m tests.faults --faults 50 --seed "$(SEED)" $(ARGS)

simulate: $(READY) ## histories of real tasks over a simulated Kafka: HISTORIES=1000, or one of them: SEED=4711
	@$(PY) -m tests.simulation --histories "$(or $(HISTORIES),1000)" $(if $(SEED),--seed "$(SEED)") $(ARGS)

timemachine: $(READY) ## a long log under faults, and every claim about its past: EVENTS=200000 SEED=1 ARGS="--data DIR"
	@EVENTS="$(EVENTS)" SEED="$(SEED)" $(PY) -m tests.timemachine $(ARGS)

audit: $(READY) ## known holes in locked packages (pip-audit); says so where its database cannot be reached
	@$(PY) -m tests.security.audit

lint: $(READY) ## ruff and mypy --strict
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy .

format: $(READY) ## format the code and mend what ruff can mend
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

LOCKED := -m uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --quiet

lock: $(READY) ## write the locks: requirements.lock, the image's part of it, Kafka's; ARGS=--upgrade takes newer versions
	@$(PY) $(LOCKED) --extra embedded --extra dev $(ARGS) --output-file requirements.lock
	@$(PY) $(LOCKED) --constraint requirements.lock --no-annotate --output-file deploy/requirements.lock
	@$(PY) -m local lock

clean: ## delete .venv and every cache; the data stays (python -m local reset deletes it)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV) from requirements.lock (once, and after each change of it; about a minute) ..." >&2
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@
