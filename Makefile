# Each target sets up what it needs: .venv is built when missing or when the requirements changed, and never otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export DIFFPRUNE_SHARED ?= ../shared
# Two processes of one thread each: the files of tests are shared out, those that use the cluster stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

.PHONY: run test test-fast test-slurm lint docs lock clean

run: $(STAMP)
	$(BIN)/python -m diffprune

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

# On two Slurm nodes of its own; without Slurm's packages they are skipped (`tests/slurm/cluster.py up` installs them).
test-slurm: $(STAMP)
	$(BIN)/python -m pytest -m slurm -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ty check --python $(VENV) diffprune experiments hydra_plugins

# The documentation as pages, in site/; a link that leads nowhere stops it.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# Takes the newest versions that fit the ranges of pyproject.toml; run the whole suite under them before they are committed.
lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --no-annotate --python-version 3.11 --upgrade --output-file requirements.txt

# The stamp holds the checksum of what was installed: a checkout that only touches the files' times installs nothing.
WANTED := $(shell cat requirements.txt pyproject.toml | sha256sum | cut -c-64)
ifneq ($(WANTED),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("diffprune needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable '.[all,dev]'
	@echo $(WANTED) > $@

clean:
	rm -rf $(VENV)
