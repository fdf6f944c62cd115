# `make demo` and `make test` need nothing but make: each sets up first what it needs, in stages.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKERS ?= 2
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.base
GUESTS := $(VENV)/.guests
ALL := $(VENV)/.all
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) -rs

.PHONY: help demo test conformance campaign lint docs clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 16

demo: $(BASE)  ## published against fitted and predicted; none, Remus and COLO side by side; a live kill
	@$(BIN)/python -m experiments.published.remus2008
	@$(BIN)/python -m experiments.webserver
	@$(MAKE) --no-print-directory $(GUESTS)  # here, for the first figures need not wait for QEMU
	@$(BIN)/python -m experiments.live

test: $(ALL)  ## all tests but the campaigns
	@$(PYTEST)

conformance: $(ALL)  ## comparator and rewriter beside genuine QEMU objects at full counts (minutes)
	@COLOSIM_PROFILE=campaign $(PYTEST) tests/conformance -m "campaign or not campaign" --timeout=0

campaign: $(ALL)  ## protocol, conformance, simulator, exploration and live tests at full counts; report in out/campaign
	@mkdir -p out/campaign
	@COLOSIM_PROFILE=campaign $(PYTEST) tests/protocol tests/conformance tests/sim tests/sweeps tests/exploration tests/live -m "campaign or not campaign" --timeout=0 \
		--junitxml=out/campaign/junit.xml --durations=20 | tee out/campaign/report.txt

lint: $(ALL)  ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(ALL)  ## the documentation as a site in out/docs; a warning is an error
	@$(BIN)/python -m sphinx -b html -W --keep-going -q -d out/docs/.doctrees docs out/docs
	@echo "open out/docs/index.html"

clean:  ## remove .venv, results and caches
	rm -rf $(VENV) out build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): pyproject.toml tools/setup-venv
	@tools/setup-venv base

$(GUESTS): $(BASE)
	@tools/setup-venv guests

$(ALL): $(GUESTS)
	@tools/setup-venv all
