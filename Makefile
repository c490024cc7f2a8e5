# Every target creates what it needs: `make reproduce-image-classification` works in a fresh clone with Python >= 3.11.
TASKS := image-classification lit language-modeling finetuning diffusion
PYTHON ?= python3
TASK ?= image_classification
CELL ?=
OPTIMIZERS ?=
# A cell determines its scale: a word in its name, else its file.
SCALE ?= $(if $(CELL),$(filter smoke mini gpu,$(CELL)),mini)
REPLICATES ?=
FRESH ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXPERIMENT = $(or $(CELL),$(SCALE))
AT_SCALE = $(if $(SCALE),scale=$(SCALE))
CONTESTANTS = $(if $(OPTIMIZERS),optimizer=$(OPTIMIZERS))
STUDY = $(AT_SCALE) $(CONTESTANTS) hydra/sweeper=study $(if $(REPLICATES),study.numbers=$(REPLICATES)) \
	$(if $(FRESH),run.fresh=true) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install reproduce report verify dashboard statistics protocols plan fetch pack unpack golden bench \
	bench-optimizer wandb-sync wandb-workspaces test test-lowbit test-slow test-gpu test-network \
	soak lint $(TASKS:%=reproduce-%)

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-34s %s\n", $$1, $$2}'
	@for task in $(TASKS); do \
		printf '%-34s %s\n' "reproduce-$$task" "add one replicate to this task's study and compare the optimizers"; done
	@echo
	@echo "variables: SCALE=smoke|mini|gpu, or CELL=<experiment>  OPTIMIZERS=lion,adamw,...  REPLICATES=0-3  FRESH=1  ARGS='train.steps=400 ...'"

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once): installing constraints.txt (PyTorch, Ray, ...), 7 GB. This takes minutes and prints nothing."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(READY)  ## create .venv with everything that the suite and its tests need

reproduce: $(TASKS:%=reproduce-%)  ## add one replicate to every task's study at SCALE (default mini)

$(TASKS:%=reproduce-%): reproduce-%: $(READY)
	$(BIN)/python -m experiments.$(subst -,_,$*) --multirun experiment=$(subst -,_,$*)/$(EXPERIMENT) $(STUDY)

plan: $(READY)  ## estimate the cost of experiment CELL of TASK: parameters, FLOPs, samples, memory
	$(BIN)/python -m experiments.plan $(TASK) experiment=$(subst -,_,$(TASK))/$(EXPERIMENT) $(AT_SCALE) $(CONTESTANTS) $(ARGS)

fetch: $(READY)  ## download data, weights and tokenizers of TASK's experiment CELL to the cache (LION_CACHE); TASK=all
	$(BIN)/python -m experiments.harness.fetch $(TASK) $(EXPERIMENT) $(AT_SCALE) $(ARGS)

pack: $(READY)  ## fetch, then archive it all in runs/ for machines without a network; run there with LION_OFFLINE=1
	$(BIN)/python -m experiments.harness.pack $(TASK) $(EXPERIMENT) $(AT_SCALE) $(ARGS)

unpack: $(READY)  ## unpack PACK=<file>, made by `make pack`, into the cache
	$(BIN)/python -m experiments.harness.pack --unpack "$(PACK)"

report: $(READY)  ## rebuild every table and figure under results/ from the committed records
	$(BIN)/python -m experiments.report
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.training_page

verify: $(READY)  ## rerun N=2 committed runs, or RUN=<id>, and check that they match their records bit for bit
	$(BIN)/python -m experiments.study.verify $(if $(RUN),--run $(RUN),--number $(or $(N),2)) $(if $(SEED),--seed $(SEED))

dashboard: $(READY)  ## write pages on all studies, including running ones, to runs/dashboard; SERVE=1 serves them on 127.0.0.1
	$(BIN)/python -m experiments.report.dashboard $(if $(SERVE),--serve) $(ARGS)

wandb-sync: $(READY)  ## upload the runs that were logged offline to W&B
	$(BIN)/python -m experiments.report.wandb_sync

wandb-workspaces: $(READY)  ## create a W&B workspace for each task's study at SCALE, or of CELL
	$(BIN)/python -m experiments.report.wandb_workspaces $(EXPERIMENT)

statistics: $(READY)  ## rebuild docs/statistics.md: simulations of how reliable the verdicts are
	$(BIN)/python -m experiments.simulation.statistics_page

protocols: $(READY)  ## rebuild results/protocols.md: how often tuning protocols find a winner in the committed trials
	$(BIN)/python -m experiments.simulation.protocols_page

bench: $(READY)  ## time each task's training step against bare and library loops: 8 minutes, on an idle machine
	$(BIN)/python -m benchmarks.training_step

bench-optimizer: $(READY)  ## time a step of Lion, other Lions and AdamW: 10 minutes, 18 GB, on an otherwise idle machine
	$(BIN)/python -m benchmarks.optimizer_step

# Hides the GPU: a process forked after CUDA was used cannot train.
test: lint  ## ruff, mypy, and the fast tests that need neither network nor GPU
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not gpu and not network'

test-lowbit: $(READY)  ## install the extra lowbit, and test the optimizers with 8-bit, 4-bit and fp8 state
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lowbit]'
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not gpu' tests/harness/test_low_bit*.py tests/plan/test_contestants.py

golden: $(READY)  ## rewrite the rows under tests/golden, after a change that is meant to change them
	REMAKE_GOLDEN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden

test-slow: $(READY)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)  ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu -n 8 tests/test_gpu.py tests/lion/test_lion_gpu.py tests/harness/test_low_bit.py

test-network: $(READY)  ## run the tests that download from the package registries
	$(BIN)/python -m pytest -m network

soak: $(READY)  ## inject random faults into runs and studies for SECONDS=60, compare with undisturbed ones; SEED= PAGE=<file>
	SOAK_SECONDS=$(or $(SECONDS),60) $(if $(SEED),SOAK_SEED=$(SEED)) $(if $(PAGE),SOAK_PAGE=$(PAGE)) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -s tests/soak/test_soak.py

lint: $(READY)  ## run ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
