# A bare machine needs Python >= 3.11 and make; everything else goes into .venv on first use.
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTHON ?= $(shell command -v python3.11 2>/dev/null || command -v python3 2>/dev/null || echo python3)
GRID   ?=
RESULTS ?= results
ARGS   ?=

export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false

.DEFAULT_GOAL := help
.PHONY: help install grid test lint check report docs bench fuzz torture clean

help:  ## Show this list
	@echo "make <what>, where <what> is one of"
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  \1\t/' | expand -t 12
	@echo "Variables: GRID=$(GRID) RESULTS=$(RESULTS) ARGS='--only method=lks' PYTHON=$(PYTHON)"

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "error: Python 3.11 or newer is needed, but this is %d.%d (%s). Install Python 3.11, or name one: make PYTHON=/path/to/python3.11" % (v[0], v[1], sys.executable))'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV) (about 2 GB, some minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

install: $(STAMP)  ## Make .venv and install the pinned versions

grid: $(STAMP)  ## Run the default grid (GRID=micro for another) and print the result table
	@LKS_RUNNER=$${LKS_RUNNER:-slots} $(BIN)/lks grid $(if $(GRID),--grid $(GRID)) --results $(RESULTS) $(ARGS)

report: $(STAMP)  ## Rebuild tables, figures and the HTML page from the stored results
	@$(BIN)/lks report --results $(RESULTS)

test: $(STAMP)  ## Run the tests
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(STAMP)  ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict

check: lint test  ## Both

docs: $(STAMP)  ## Rewrite docs/cli.md from the help texts of the commands
	@$(BIN)/python -m cli.reference

bench: $(STAMP)  ## Run all benchmarks of speed, long (ARGS=edit_speed for one)
	@LKS_RESULTS=$(RESULTS) $(BIN)/python -m benchmarks $(ARGS)

fuzz: $(STAMP)  ## Damaged input for every reader, long (ARGS='--count 500 --only store' for less)
	@$(BIN)/python -m tests.fuzz --count 10000 $(ARGS)

torture: $(STAMP)  ## Kill processes of grids on a work pool at random, long (ARGS='--kills 20 --seed 3' for less)
	@$(BIN)/python -m tests.torture --kills 200 $(ARGS)

clean:  ## Remove .venv and caches; results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
