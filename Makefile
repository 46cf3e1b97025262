# Two commands for a newcomer: `make demo` and `make test`. The rest is for those who work on raystore.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --durations=25
QUICK := 'not slow and not gpu and not bench'
ROOMS := tests/data tests/encoders tests/fine_tune tests/index tests/migrate tests/train
PAGES := tests/demo tests/test_docs_pages.py tests/test_notebooks.py
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help demo test test-rooms test-rest test-fast test-slow test-slow-pages test-slow-rest lint check bench bench-peers clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

# torch comes first and pinned: a looser request finds a build with gigabytes of CUDA beside it.
$(VENV)/.base: pyproject.toml constraints.txt
	@echo "Installing raystore and what it needs into $(VENV): about 2.6 GB unpacked; the download takes some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[openvino]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable '.[dev]'
	touch $@

demo: $(VENV)/.base  ## raw text to a served prediction, end to end (ARGS='--keep' and so on)
	$(BIN)/raystore demo $(ARGS)

test: $(VENV)/.dev  ## all tests but the slow ones
	@$(MAKE) --no-print-directory --jobs=2 test-rooms test-rest

# Two halves side by side, as one waits a third of its time for processes to start. sed hands on whole lines, so they do not mix.
test-rooms: $(VENV)/.dev
	$(PYTEST) -m $(QUICK) $(ROOMS) 2>&1 | sed --unbuffered ''

test-rest: $(VENV)/.dev
	$(PYTEST) -m $(QUICK) tests $(addprefix --ignore=,$(ROOMS)) 2>&1 | sed --unbuffered ''

test-fast: $(VENV)/.dev  ## the tests without Ray and without a model
	$(PYTEST) -m 'not slow and not ray and not model and not browser and not gpu and not bench'

test-slow: $(VENV)/.dev  ## kills by the dozen, soaks, the pages of the docs, the wheel in an empty environment
	@$(MAKE) --no-print-directory --jobs=2 test-slow-pages test-slow-rest

test-slow-pages: $(VENV)/.dev
	$(PYTEST) -m slow $(PAGES) 2>&1 | sed --unbuffered ''

test-slow-rest: $(VENV)/.dev
	$(PYTEST) -m slow tests $(addprefix --ignore=,$(PAGES)) 2>&1 | sed --unbuffered ''

lint: $(VENV)/.dev  ## ruff and mypy --strict
	$(BIN)/ruff format --check raystore tests benchmarks examples
	$(BIN)/ruff check raystore tests benchmarks examples
	$(BIN)/mypy

check: lint test-fast  ## before every commit: lint, the fast tests, the import map among them

bench: $(VENV)/.dev  ## every benchmark: a peer and raystore on the same work, ratios to benchmarks/results/
	for file in benchmarks/[a-z]*.py; do case $$file in */common.py) ;; *) echo "== $$file"; $(BIN)/python $$file || exit 1 ;; esac; done

bench-peers:  ## the peers of the benchmarks, each in an environment of its own under .bench-peers/
	for file in benchmarks/peers/*.txt; do env=.bench-peers/$$(basename $$file .txt); \
	test -x $$env/bin/python || $(PYTHON) -m venv $$env; $$env/bin/pip install --quiet -r $$file || exit 1; done

clean:  ## remove the environment and what the demo made
	rm -rf $(VENV) raystore-demo* .bench-cache .bench-peers
