# Each target sets up what it needs: .venv is built when missing or when requirements.txt changed, and never otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export DIFFPRUNE_SHARED ?= ../shared
# Two processes of one thread each: the files of tests are shared out, those that use the cluster stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

.PHONY: run test test-fast test-slurm lint clean

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

# The stamp holds the checksum of what was installed: a checkout that only touches the file's time installs nothing.
WANTED := $(shell $(PYTHON) -c 'import hashlib; print(hashlib.sha256(open("requirements.txt", "rb").read()).hexdigest())')
ifneq ($(WANTED),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("diffprune needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@echo $(WANTED) > $@

clean:
	rm -rf $(VENV)
