# Every target and what it does: make help
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

PRESET ?= full
OUT    ?= runs/quickstart$(if $(filter-out full,$(PRESET)),-$(PRESET))
DATA   ?=
HOST   ?=
CONCERN ?=

OVERLAY = $(PY) tools/apply_patches.py
CHOSEN  = $(addprefix --host ,$(HOST)) $(addprefix --concern ,$(CONCERN))

.PHONY: help setup quickstart report patch unpatch audit edits patch-check count-params test lint bench test-gpu bench-gpu \
	bench-table4 cuda-report doctor clean

help:  ## List every target
	@sed -n 's/^\([a-zA-Z0-9_-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'
	@echo
	@echo "Variables: PYTHON=python3  DATA=folder-or-zip  OUT=runs/...  PRESET=full|smoke  DRY_RUN=1  SKIP_BROKEN=1"
	@echo "           HOST='stylegan3 ...'  CONCERN='compat cpu ...' (patches; all where not given)"

setup: $(READY)  ## Make .venv and install the pinned requirements (PYTHON= chooses the interpreter)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make setup: PYTHON must be Python 3.11 or newer; got $$($(PYTHON) --version 2>&1). Try: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

quickstart: $(READY)  ## Train plain and MTM on real pictures, CPU, under 10 minutes, with a report (DATA=, OUT=, PRESET=, DRY_RUN=1)
	$(PY) -m experiments.run quickstart --preset $(PRESET) --out "$(OUT)" $(if $(DATA),--data "$(DATA)") \
		$(if $(SKIP_BROKEN),--skip-broken) $(if $(DRY_RUN),--dry-run)

report: $(READY)  ## Render the report of a run again (OUT=)
	$(PY) -m experiments.report --out "$(OUT)"

patch: $(READY)  ## Insert our lines into the official code under vendor/, fetching it first (HOST=, CONCERN=, DRY_RUN=1)
	@$(OVERLAY) apply $(CHOSEN) $(if $(DRY_RUN),--dry-run)

unpatch: $(READY)  ## Take them out again (HOST=, CONCERN=, DRY_RUN=1)
	@$(OVERLAY) revert $(CHOSEN) $(if $(DRY_RUN),--dry-run)

audit: $(READY)  ## Print all that is inserted as one diff per host; make -s audit > audit.diff for a file (HOST=, CONCERN=)
	@$(OVERLAY) show $(CHOSEN)

edits: $(READY)  ## Print what is yours in the patched files, as a diff that git apply -R takes out (HOST=)
	@$(OVERLAY) edits $(CHOSEN)

patch-check: $(READY)  ## Check the patch files, and tell what is applied (HOST=)
	@$(OVERLAY) check $(CHOSEN)
	@$(OVERLAY) status $(CHOSEN) || test $$? = 3 -o $$? = 4

count-params: $(READY)  ## Parameters with and without MTM, beside the paper's Table 4
	@$(PY) -m tools.count_params

test: $(READY)  ## Run the tests
	$(PY) -m pytest

lint: $(READY)  ## Check style and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

bench: $(READY)  ## Time the op beside plain convolution and torchvision's deform_conv2d
	$(PY) -m tools.bench

test-gpu: $(READY)  ## Run the tests that need an NVIDIA GPU (fails where there is none)
	@$(PY) -m tools.gpu "make test-gpu"
	$(PY) -m pytest tests/gpu

bench-gpu: $(READY)  ## Time the op on a GPU beside plain convolution, torchvision and the floor
	$(PY) -m tools.bench_gpu

bench-table4: $(READY)  ## The paper's Table 4 costs: a training iteration of StyleGAN2 with MTM none, low, mid, high
	$(PY) -m tools.bench_table4

cuda-report: $(READY)  ## Registers and spills of every CUDA kernel, for four architectures (needs nvcc, no GPU)
	$(PY) -m tools.cuda_report

doctor: $(READY)  ## Tell what the op will use on this machine, and what would make it faster
	$(PY) -m mtm_ops.doctor

clean:  ## Remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
