# Two commands for a newcomer: `make quickstart` runs the main job, `make test` checks everything.
# Both make .venv and install what is pinned in constraints.txt, if it is not there.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

TORCH ?= 2.11.0
OTHER := .venv-torch-$(TORCH)

# The build backend is installed in an environment of its own; which of the two variables reaches it depends on pip.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

EXTRAS := dev,parquet,cluster,tensorboard,wandb,trackio,transformers,lm-eval,docs
PACKAGES := lrzip chromium openssh-server qemu-user

.PHONY: quickstart test types tests test-all test-torch cheats site lint clean

quickstart: $(READY)
	$(BIN)/bitgolf run quickstart

# One process per core, one thread per process. Tests start many processes: keeping byte code lets them start sooner.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal --durations 20 --durations-min 1

# Everything that needs only the extra `dev`. Tests that need more skip, and say what they need. Ends with the slowest tests.
# The type checker takes a minute of one core, so the tests start beside it; if one of the two fails, the other goes on.
test: $(READY)
	$(BIN)/ruff check src tests bench docs/site
	$(BIN)/ruff format --check src tests bench docs/site
	@$(MAKE) --no-print-directory --jobs 2 --keep-going types tests

types: $(READY)  # printed in one piece, since tests print at the same time
	@found=$$($(BIN)/pyright 2>&1); failed=$$?; printf '\npyright: %s\n' "$$found"; exit $$failed

tests: $(READY)
	$(PYTEST) -rs

# Everything: the other extras, Debian packages where the user is root, cases marked `exhaustive`, all examples of the
# tests with Hypothesis, and the built wheel.
test-all: .venv/all-ready test
	@test -e .venv-arm/ready || tests/arm_environment.sh $(BIN)/python .venv-arm || echo "not made: .venv-arm (tests/arm_environment.sh)"
	$(PYTEST) -m 'exhaustive or hypothesis' --hypothesis-profile exhaustive
	tests/wheel.sh $(BIN)/python

.venv/all-ready: $(READY)
	$(PINNED) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' --constraint constraints.txt
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then apt-get install --yes --quiet $(PACKAGES); \
	else echo "not installed, as this needs root and apt-get: $(PACKAGES)"; fi
	touch $@

# Every test on another PyTorch, in a venv of its own: `make test-torch TORCH=2.11.0`, the oldest that pyproject.toml allows.
# Other packages are pinned as for `make test`, except Triton, whose version PyTorch's wheels prescribe on Linux.
test-torch: $(OTHER)/ready
	$(PYTEST:$(BIN)/%=$(OTHER)/bin/%)

$(OTHER)/ready: pyproject.toml constraints.txt
	test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	grep -Ev '^(torch|triton)==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) --constraint $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' torch==$(TORCH) --constraint $(OTHER)/constraints.txt
	touch $@

cheats: $(READY)  # the tables of docs/scoring.md: cheats that were caught, honest players that passed
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m attacks.evaluations.tables

# The documentation as a site: build/site/index.html opens from disk. Warnings are errors.
site: .venv/site-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/site-ready: $(READY)
	$(PINNED) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]' --constraint constraints.txt
	touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bitgolf needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint constraints.txt
	$(PINNED) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $(READY)

lint: $(READY)
	$(BIN)/python tests/helpers/parts_stub.py
	$(BIN)/ruff check --fix src tests bench docs/site
	$(BIN)/ruff format src tests bench docs/site

clean:
	rm -rf .venv .venv-arm .venv-torch-* runs build dist
