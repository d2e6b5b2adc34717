# vlmlab. Needs only Python >= 3.11 with pip, and make; everything lands in .venv. `make help` lists the targets.

PYTHON ?= python3
# Installed first and alone, so that nothing below it chooses a build of torch for you. Any torch >= 2.10 will do:
# `make TORCH=torch==2.10.0`, or `make TORCH="torch --index-url ..."` for the build that suits your accelerator.
TORCH ?= torch==2.13.0
# Where `make demo` leaves its run folder.
RUN ?= runs/demo
# How many tests run at once, and what more to tell pytest: `make test TESTS="-k perceiver"`.
WORKERS ?= 2
TESTS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := src tests scripts benchmarks

.DELETE_ON_ERROR:
.PHONY: setup help demo test lint format types imports licences house bench fuzz soak clean

setup: .venv/.ready-demo  ## the environment, in .venv (the default)
	@echo "Ready: $(BIN)/vlmlab --help, or make demo. Other targets: make help."

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

demo: .venv/.ready-demo  ## trains a small model that sees, on real pictures (about 10 minutes on two cores)
	$(BIN)/vlmlab demo --out $(RUN)

test: .venv/.ready-test  ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

lint: .venv/.ready-test  ## ruff: rules and format
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: .venv/.ready-test  ## ruff: mends what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: .venv/.ready-test  ## mypy, strict in the core
	$(BIN)/mypy

imports: .venv/.ready-test  ## who may import whom
	$(BIN)/lint-imports

licences: .venv/.ready-test  ## what the dependency tree is licensed under
	$(BIN)/python -m pytest -s tests/house/test_licences.py

house: .venv/.ready-test  ## sizes we watch: lines of the core, long files, long functions, tests per source
	$(BIN)/python scripts/house.py

bench: .venv/.ready-test  ## every benchmark of benchmarks/, beside its peer (an hour or so)
	@for file in $(sort $(wildcard benchmarks/[a-z]*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

fuzz: .venv/.ready-test  ## 5,000 broken pictures through the processes that decode for a server
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m serve.fuzz --out benchmarks/results/fuzz-pictures.json

soak: .venv/.ready-test  ## 15 minutes of twice what a server can do, from clients of every kind
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m serve.soak --minutes 15 --out benchmarks/results/soak.json

clean:  ## removes caches and builds; keeps .venv and runs/
	rm -rf build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in stamped steps: quick the second time, and again when pyproject.toml changes.
.venv/.ready-torch:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"vlmlab needs Python 3.11 or newer, $(PYTHON) is \
	{v[0]}.{v[1]}: say make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PIP) install $(TORCH)
	@touch $@

.venv/.ready-demo: pyproject.toml .venv/.ready-torch
	@echo "Installing vlmlab and what it needs: a minute or two."
	$(PIP) install --quiet --editable '.[plots]'
	@touch $@

.venv/.ready-test: pyproject.toml .venv/.ready-torch
	@echo "Installing vlmlab and what it needs: a minute or two."
	$(PIP) install --quiet --editable '.[test,plots]'
	$(PIP) install --quiet --no-deps text-generation==0.7.0  # a client in tests: pins an old hub, works with any
	@touch $@ .venv/.ready-demo
