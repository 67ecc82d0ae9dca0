# Every target and what it does: make help
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
# A GPU machine may have no network, but an interpreter with torch for its GPU. Use it with PYTHON=python3.
GIVEN     := $(filter command,$(origin PYTHON))
GPU_PY    := $(if $(GIVEN),$(PYTHON),$(PY))
READY_DEV := $(VENV)/.ready-dev
GPU_READY := $(if $(GIVEN),,$(READY_DEV))
DOCS_VENV := .venv-docs

PRESET ?= full
TABLE  ?= $(or $(filter smoke study,$(MAKECMDGOALS)),quickstart)
TABLES ?=
# The paper's tables share a folder, so that they share runs that appear in several of them.
OUT    ?= runs/$(if $(filter reproduce-%,$(MAKECMDGOALS)),paper,$(if $(filter gpu-session,$(MAKECMDGOALS)),gpu,$(TABLE)))$(if $(filter-out full,$(PRESET)),-$(PRESET))
DATA   ?=
FROM   ?=
WEIGHTS ?=
HOST   ?=
CONCERN ?=
TORCH  ?= 2.11.0
WORKERS ?= 2
# The tests that depend on torch's release: registration, compile, autocast, fake kernels, autograd.
TORCH_TESTS = $(addprefix tests/ops/test_, registration.py entry.py results.py weight_groups.py errors.py module.py \
	demodulation.py precision.py half_conv.py)

# If the environment forbids bytecode files, every process in a new .venv compiles torch again, in 8 seconds.
export PYTHONDONTWRITEBYTECODE =

# Paths reach the shell unexpanded, through the environment, so that $$, quotes and spaces in them are not special.
export MTM_DATA := $(value DATA)
export MTM_FROM := $(value FROM)
export MTM_SLURM_ARGS := $(value SLURM_ARGS)
export MTM_OUT  := $(if $(filter file,$(origin OUT)),$(OUT),$(value OUT))
SLURM = $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(PARTITION),--partition $(PARTITION)) \
	$(if $(SLURM_ARGS),--slurm-args "$$MTM_SLURM_ARGS")
RUN = $(PY) -m experiments.run $(TABLE) --preset $(PRESET) --out "$$MTM_OUT" $(if $(MTM_DATA),--data "$$MTM_DATA") \
	$(if $(PARALLEL),--parallel $(PARALLEL)) $(SLURM) $(if $(SKIP_BROKEN),--skip-broken) $(if $(DRY_RUN),--dry-run)

REPRODUCE = $(PY) -m experiments.reproduce $* --preset $(PRESET) --out "$$MTM_OUT" $(if $(MTM_DATA),--data "$$MTM_DATA") \
	$(if $(GPUS),--gpus $(GPUS)) $(if $(NNODES),--nnodes $(NNODES)) $(if $(RDZV),--rdzv $(RDZV)) \
	$(addprefix --row ,$(ROW)) $(addprefix --seed ,$(SEED) $(SEEDS)) $(if $(PARALLEL),--parallel $(PARALLEL)) \
	$(SLURM) $(if $(SKIP_BROKEN),--skip-broken) $(if $(DRY_RUN),--dry-run)

OVERLAY = $(PY) tools/apply_patches.py
CHOSEN  = $(addprefix --host ,$(HOST)) $(addprefix --concern ,$(CONCERN))

# For targets that do not exist.
.DEFAULT:
	@echo "make: there is no target '$@'. Print the targets: make help" >&2; exit 2

.PHONY: help setup quickstart smoke table report study study-results study-report weights patch unpatch audit edits patch-check count-params test test-fast test-torch lint docs bench \
	bench-metrics test-gpu bench-gpu bench-table4 gpu-bundle gpu-session gpu-page cuda-report doctor clean

help:  ## List every target
	@sed -n 's/^\([a-zA-Z0-9_-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-24s%s\n", $$1, $$2 }'
	@echo
	@echo "Variables: PYTHON=python3  DATA=folder-or-zip  OUT=runs/...  PRESET=full|smoke  DRY_RUN=1  SKIP_BROKEN=1"
	@echo "           TABLE=smoke|...  TABLES='people ...' (study)  PARALLEL=2"
	@echo "           GPUS=8  NNODES=2 RDZV=host:port  ROW='row ...'  SEED=0  SEEDS='0 1 2' (reproduce-..., which also has PRESET=small)"
	@echo "           CLUSTER=slurm  PARTITION=name  SLURM_ARGS='--account=... --time=...' (table, reproduce-...)"
	@echo "           WEIGHTS='name ...'  FROM=folder (make weights; MTM_WEIGHTS names their folder)"
	@echo "           HOST='stylegan3 ...'  CONCERN='compat cpu ...' (patches; default: all)"

setup: $(READY_DEV)  ## Create .venv and install the pinned requirements (PYTHON= chooses the interpreter)

# --no-compile, because compiling all files to bytecode takes longer than unpacking; Python compiles what it imports.
# FORCE, if .venv/bin/python is missing because .venv was partly deleted.
$(READY): requirements.txt pyproject.toml $(if $(wildcard $(PY)),,FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { version=$$($(PYTHON) -V 2>/dev/null) || \
		version="$(PYTHON), which does not run"; echo "make setup: PYTHON must be Python 3.11 or newer; got $$version." \
		"Try: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --no-compile -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(READY_DEV): $(READY) requirements-dev.txt requirements-metrics.txt
	$(PY) -m pip install --disable-pip-version-check --no-compile -r requirements-dev.txt
	$(PY) -m pip install --disable-pip-version-check --no-compile --quiet --no-deps -r requirements-metrics.txt
	@touch $@

quickstart: $(READY)  ## Train a small generator without and with MTM on a CPU, in about 7 minutes, and write a report (DATA=, OUT=, PRESET=, DRY_RUN=1)
	@$(RUN)

smoke: $(READY_DEV) patch  ## Smoke test: train every official codebase for a few iterations, plain and with MTM, on a CPU (OUT=, PARALLEL=)
	@$(PY) -m experiments.run smoke --out "$$MTM_OUT" $(if $(PARALLEL),--parallel $(PARALLEL)) $(if $(DRY_RUN),--dry-run)

table: $(READY)  ## Run or resume a table of experiments/tables (TABLE=, OUT=, DATA=, PRESET=, PARALLEL=, DRY_RUN=1)
	@$(RUN)

reproduce-all:  ## Reproduce every table and figure of the paper (PRESET=full, small or smoke; OUT=, DATA=, GPUS=, ROW=, SEEDS=, DRY_RUN=1)

reproduce-table1:  ## Reproduce one of table1 (1a to 1d), table1a, table2, table3 (3a to 3c), table4, tableA1, tableA2, fig4, figures

# A dry run needs only the small environment.
reproduce-%: $(if $(DRY_RUN),$(READY),$(READY_DEV)) FORCE
	@$(REPRODUCE)

FORCE:

report: $(READY)  ## Render the report of a run again (OUT=)
	@$(PY) -m experiments.report --out "$$MTM_OUT"

study: $(if $(DRY_RUN),$(READY),$(READY_DEV))  ## Run or resume the study of docs/study.md, which asks whether MTM helps where geometry varies (OUT=, PRESET=smoke, TABLES=, PARALLEL=, DRY_RUN=1)
	@$(PY) -m experiments.study run --out "$$MTM_OUT" --preset $(PRESET) $(addprefix --table ,$(TABLES)) \
		$(if $(MTM_DATA),--data "$$MTM_DATA") $(if $(PARALLEL),--parallel $(PARALLEL)) $(if $(DRY_RUN),--dry-run)

study-results: $(READY)  ## Collect the study's runs in docs/study/results.json (FROM='folder ...', default runs/study)
	$(PY) -m experiments.study merge $(if $(MTM_FROM),$(value FROM),runs/study)

study-report: $(READY_DEV)  ## Write the tables and figures of docs/study.md from docs/study/results.json
	$(PY) -m experiments.study report

weights: $(READY)  ## Fetch and verify the pretrained networks that the metrics need (WEIGHTS="name ...", FROM=folder, DRY_RUN=1)
	@$(PY) -m tools.weights $(WEIGHTS) $(if $(MTM_FROM),--from "$$MTM_FROM") $(if $(DRY_RUN),--dry-run)

patch: $(READY)  ## Fetch the official code into vendor/ and insert our lines (HOST=, CONCERN=, DRY_RUN=1)
	@$(OVERLAY) apply $(CHOSEN) $(if $(DRY_RUN),--dry-run)

unpatch: $(READY)  ## Remove our lines from the official code (HOST=, CONCERN=, DRY_RUN=1)
	@$(OVERLAY) revert $(CHOSEN) $(if $(DRY_RUN),--dry-run)

audit: $(READY)  ## Print every inserted line in its context, one diff per host; to save it: make -s audit > audit.diff (HOST=, CONCERN=)
	@$(OVERLAY) show $(CHOSEN)

edits: $(READY)  ## Print your own edits in the patched files as a diff; git apply -R removes them (HOST=)
	@$(OVERLAY) edits $(CHOSEN)

patch-check: $(READY)  ## Check the patch files, and print which patches are applied (HOST=)
	@$(OVERLAY) check $(CHOSEN)
	@$(OVERLAY) status $(CHOSEN) || test $$? = 3 -o $$? = 4

count-params: $(READY)  ## Print the numbers of parameters with and without MTM, next to the paper's Table 4
	@$(PY) -m tools.count_params

# Each worker process takes whole test files, so that a file's fixtures are made once. Tests keep the order of
# collection, slow folders first. Processes that tests start use one thread each unless they ask for more.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(READY_DEV)  ## Run the tests (WORKERS=2 processes)
	$(PYTEST)

test-fast: $(READY_DEV)  ## Run the tests that are not marked slow
	$(PYTEST) -m "not slow"

test-torch: $(READY_DEV)  ## Run the op's tests with another torch release, on the CPU (TORCH=2.11.0; downloads 0.5 GB once)
	@python=$$($(PY) -m tools.torch_env $(TORCH)) && \
		PYTHONPATH=. "$$python" -m pytest -p no:cacheprovider $(TORCH_TESTS)

lint: $(READY_DEV)  ## Check style and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(DOCS_VENV)/.ready  ## Build the documentation as a site in build/site; fails if a link is broken
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# A separate environment: it reads docstrings without importing torch.
$(DOCS_VENV)/.ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@touch $@

$(BENCH_READY): requirements-bench.txt $(READY)
	$(PY) -m pip install --disable-pip-version-check --quiet -r requirements-bench.txt
	@touch $@

bench: $(BENCH_READY)  ## Time the op, plain convolution, torchvision and onnxruntime (installs requirements-bench.txt)
	$(PY) -m tools.bench

bench-metrics: $(READY_DEV)  ## Time our metrics, torch-fidelity and clean-fid on a CPU: images/s and peak memory, with stand-in weights
	$(PY) -m tools.bench_metrics

test-gpu: $(GPU_READY)  ## Run the tests that need an NVIDIA GPU; fails if there is none (PYTHON= replaces .venv)
	@$(GPU_PY) -m tools.gpu "make test-gpu"
	$(GPU_PY) -m pytest tests/gpu

bench-gpu: $(GPU_READY)  ## Time the op on a GPU, and compare with plain convolution, torchvision and the roofline (PYTHON=)
	$(GPU_PY) -m tools.bench --device cuda

bench-table4: $(GPU_READY)  ## Time training iterations and inference with MTM none, low, mid, high: the costs in the paper's Table 4 (PYTHON=)
	$(GPU_PY) -m tools.bench_table4

gpu-bundle: $(READY_DEV)  ## Pack into .gpu what a GPU machine without a network needs (docs/results-cuda.md)
	@$(OVERLAY) apply --host stylegan3
	$(PY) -m tools.gpu_bundle $(if $(GPU_PYTHON),--python-version $(GPU_PYTHON))

gpu-session: $(GPU_READY)  ## Run the tests, benchmarks and trainings that need a GPU, in steps (STEPS='test bench', OUT=, PRESET=, LIMIT_S=, PYTHON=)
	$(GPU_PY) -m tools.gpu_session --steps "$(STEPS)" --out "$$MTM_OUT" --preset $(PRESET) $(if $(LIMIT_S),--limit-s $(LIMIT_S))

gpu-page: $(READY)  ## Write the results of GPU sessions into docs/results-cuda.md (FROM='folder ...', default runs/gpu)
	$(PY) -m tools.gpu_page $(if $(MTM_FROM),$(value FROM),runs/gpu)

cuda-report: $(READY)  ## Print registers, spills, machine code and launches of the CUDA kernels (needs nvcc, no GPU)
	$(PY) -m tools.cuda_report
	$(PY) -m tools.cuda_calls

doctor: $(READY)  ## Print which implementation the op uses on this machine, and what would make it faster
	$(PY) -m mtm_ops.doctor

clean:  ## Remove .venv, .torch and caches; keep runs/, data/ and weights/
	rm -rf $(VENV) $(DOCS_VENV) .torch build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
