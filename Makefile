# `make demo` and `make test` need Python 3.11 or newer, make and git; everything else goes into .venv.
# On Linux, PyPI's torch brings several GB of CUDA, so the CPU build is taken where PyTorch's own index can be reached.
# For a GPU: make demo TORCH_INDEX=

PYTHON      ?= python3
PIP_FLAGS   ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN         := .venv/bin
PIP         := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
INPUTS      := Makefile pyproject.toml constraints.txt

PROBE       := from urllib.request import urlopen; urlopen("$(TORCH_INDEX)/torch/", timeout=10); \
               print("--extra-index-url $(TORCH_INDEX)")

# Only their data files are read, so their many dependencies stay out.
MINERALS    := larixite==2026.1.0 gemmology-mineral-database==2.3.0

.PHONY: help demo test check format docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    pre-train on minerals, predict gem properties, write demo/report.html"
	@echo "make test    the tests"
	@echo "make check   format, lint, types, documentation, tests"
	@echo "make format  rewrite the code in the project's format"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove everything that make made, except data you ingested"

demo: .venv/.demo
	$(BIN)/crystalmax demo --out demo

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: .venv/.dev .venv/.docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

format: .venv/.dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv demo site dist .mypy_cache .ruff_cache .hypothesis

# Each stamp is newer than what it was installed from, so a second run installs nothing.
.venv/.base: $(INPUTS)
	@echo "Installing crystalmax into .venv (a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(PIP) -e . $$($(BIN)/python -c '$(PROBE)' 2>/dev/null)
	@touch $@

.venv/.demo: .venv/.base
	@$(PIP) --no-deps $(MINERALS)
	@touch $@

.venv/.dev: .venv/.demo
	@$(PIP) -e '.[dev]'
	@touch $@

.venv/.docs: .venv/.base
	@$(PIP) -e '.[docs]'
	@touch $@
