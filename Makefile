# Every target sets itself up: `make reproduce-image-classification` works in a fresh clone with Python >= 3.11.
PYTHON ?= python3
SCALE ?= mini
CELL ?= $(SCALE)
OPTIMIZERS ?= lion,adamw
FRESH ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDY = scale=$(SCALE) optimizer=$(OPTIMIZERS) hydra/sweeper=study $(if $(FRESH),run.fresh=true) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install test test-slow test-gpu test-network lint reproduce-image-classification pilot-image-classification reproduce report

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-34s %s\n", $$1, $$2}'
	@echo
	@echo "variables: SCALE=smoke|mini|gpu  CELL=<experiment>  OPTIMIZERS=lion,adamw  FRESH=1  ARGS='train.steps=400 ...'"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(READY)  ## make .venv with everything that the suite and its tests need

reproduce: reproduce-image-classification  ## every task's study at SCALE (default mini)

reproduce-image-classification: $(READY)  ## Lion against AdamW on CIFAR-10: tune, confirm, verdict
	$(BIN)/python -m experiments.image_classification --multirun experiment=image_classification/$(CELL) $(STUDY)

pilot-image-classification: $(READY)  ## a coarse search, of equal effort for all, for an experiment's learning rates
	$(BIN)/python -m experiments.image_classification --multirun experiment=image_classification/$(CELL) $(STUDY) \
		study=pilot 'study.confirm_seeds=[]' 'study.tune_seeds=[2000]'

report: $(READY)  ## rebuild every table and figure under results/ from the committed run records
	$(BIN)/python -m experiments.report

test: $(READY) lint  ## the tests that need neither network nor GPU, ruff and mypy
	$(BIN)/python -m pytest -m 'not slow and not gpu and not network'

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-network: $(READY)  ## the tests that fetch from the package registries
	$(BIN)/python -m pytest -m network

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
