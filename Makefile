# Every target sets itself up: `make reproduce-image-classification` works in a fresh clone with Python >= 3.11.
TASKS := image-classification lit language-modeling finetuning diffusion
PYTHON ?= python3
TASK ?= image_classification
SCALE ?= mini
CELL ?= $(SCALE)
OPTIMIZERS ?= lion,adamw
REPLICATES ?=
FRESH ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDY = scale=$(SCALE) optimizer=$(OPTIMIZERS) hydra/sweeper=study $(if $(REPLICATES),study.numbers=$(REPLICATES)) \
	$(if $(FRESH),run.fresh=true) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install reproduce report verify dashboard statistics protocols plan golden bench bench-optimizer wandb-sync wandb-workspaces test test-slow \
	test-gpu test-network soak lint $(TASKS:%=reproduce-%)

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-34s %s\n", $$1, $$2}'
	@for task in $(TASKS); do \
		printf '%-34s %s\n' "reproduce-$$task" "run one more replicate of this task's study, and compare"; done
	@echo
	@echo "variables: SCALE=smoke|mini|gpu|paper  CELL=<experiment>  OPTIMIZERS=lion,adamw  REPLICATES=0-3  FRESH=1  ARGS='train.steps=400 ...'"

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV), once: PyTorch, Ray and the others of constraints.txt, 7 GB on disk. Some minutes without a word."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(READY)  ## make .venv with everything that the suite and its tests need

reproduce: $(TASKS:%=reproduce-%)  ## one more replicate of every task's study at SCALE (default mini)

$(TASKS:%=reproduce-%): reproduce-%: $(READY)
	$(BIN)/python -m experiments.$(subst -,_,$*) --multirun experiment=$(subst -,_,$*)/$(CELL) $(STUDY)

plan: $(READY)  ## what the experiment CELL of TASK would cost: parameters, FLOPs, samples, memory
	$(BIN)/python -m experiments.harness.plan $(TASK) experiment=$(TASK)/$(CELL) scale=$(SCALE) $(ARGS)

report: $(READY)  ## rebuild every table and figure under results/ from the committed records
	$(BIN)/python -m experiments.report
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.training_page

verify: $(READY)  ## run N=2 committed runs again, or RUN=<id>, and compare with their records to the bit
	$(BIN)/python -m experiments.study.verify $(if $(RUN),--run $(RUN),--number $(or $(N),2)) $(if $(SEED),--seed $(SEED))

dashboard: $(READY)  ## pages of all studies and running ones in runs/dashboard; SERVE=1 serves them on 127.0.0.1
	$(BIN)/python -m experiments.report.dashboard $(if $(SERVE),--serve) $(ARGS)

wandb-sync: $(READY)  ## upload the runs that W&B logged offline, each once
	$(BIN)/python -m experiments.report.wandb_sync

wandb-workspaces: $(READY)  ## make a W&B workspace for each task's study at SCALE
	$(BIN)/python -m experiments.report.wandb_workspaces $(SCALE) $(CELL)

statistics: $(READY)  ## docs/statistics.md: how far the verdicts can be trusted, by simulation
	$(BIN)/python -m experiments.report.statistics_page

protocols: $(READY)  ## results/protocols.md: how often ways of tuning name a winner, by the committed trials
	$(BIN)/python -m experiments.report.protocols_page

bench: $(READY)  ## time each task's training step beside a bare loop and its users' loops: 15 minutes, a quiet machine
	$(BIN)/python -m benchmarks.training_step

bench-optimizer: $(READY)  ## time a step of Lion, of other Lions and of AdamW: 10 minutes, 18 GB, a quiet machine
	$(BIN)/python -m benchmarks.optimizer_step

test: lint  ## the tests that need neither network nor GPU, ruff and mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow and not gpu and not network'

golden: $(READY)  ## make the rows under tests/golden anew, after a change that is meant to move them
	REMAKE_GOLDEN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu -n 8

test-network: $(READY)  ## the tests that fetch from the package registries
	$(BIN)/python -m pytest -m network

soak: $(READY)  ## faults at random into runs and studies for SECONDS=60, compared with undisturbed ones; SEED= PAGE=<file>
	SOAK_SECONDS=$(or $(SECONDS),60) $(if $(SEED),SOAK_SEED=$(SEED)) $(if $(PAGE),SOAK_PAGE=$(PAGE)) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -s tests/soak

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
