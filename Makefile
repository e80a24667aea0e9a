# Every target sets up what it needs: a .venv with the locked packages. The second time that costs nothing.
# All that a machine must have is Python 3.11; `make PYTHON=/path/to/python <target>` names another one.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test notebooks nbval tables lab train lint lock clean

PY := .venv/bin/python
UV := $(PY) -m uv
SETUP := .venv/.setup
NOTEBOOKS := notebooks
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP) ## Install everything into .venv (the other targets do this by themselves)

demo: $(SETUP) ## Turn six sentences into sound, student beside teacher
	$(PY) -m dear demo

test: lint ## Run everything that is checked: lint, the tests, and every notebook compared with its stored output
	$(PYTEST) tests
	$(MAKE) --no-print-directory nbval

nbval: $(SETUP) ## Run the notebooks and compare each output with the stored one (NOTEBOOKS=notebooks/00_hear_it.ipynb: one)
	$(PYTEST) -c pyproject.toml -p tests.nbval_plugin --nbval --nbval-current-env \
		--nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 240 $(NOTEBOOKS)

notebooks: $(SETUP) ## Execute the course, store outputs and run times, renew the course map (ONLY="00_hear_it ...": some)
	$(PY) notebooks/build.py $(ONLY)

tables: $(SETUP) ## Renew the tables of the README from notebooks and records
	$(PY) notebooks/build.py --tables

lab: $(SETUP) ## Open the course in JupyterLab
	$(PY) -m jupyterlab --notebook-dir notebooks

train: $(SETUP) ## Train again every model that is shipped
	$(PY) -m dear train all --out dear/weights --runs runs/soundworld

lint: $(SETUP) ## Check the style of code and notebooks (ruff)
	$(PY) -m ruff check .

# What the lock pins already is kept where it still fits; delete requirements.lock first to move to newer versions.
# torch is held at the version that the shipped models and the stored outputs were made with.
lock: $(SETUP) ## Resolve pyproject.toml into requirements.lock, for Linux, macOS and Windows at once
	echo 'torch==2.11.0' | $(UV) pip compile --quiet --universal --python-version 3.11 --all-extras -c - \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements.lock pyproject.toml

clean: ## Remove .venv and all caches, nothing that was trained or stored
	rm -rf .venv build dist .pytest_cache .ruff_cache
	find . \( -name __pycache__ -o -name .ipynb_checkpoints -o -name '*.egg-info' \) -prune -exec rm -rf {} +

# The first Python that is 3.11 and can make environments, or the one that the user names.
define FIND_PYTHON
for python in $(or $(PYTHON),python3.11 python3); do \
	if $$python -c 'import ensurepip, sys; sys.exit("$(PYTHON)" == "" and sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then echo $$python; exit; fi; \
done; \
echo "No Python 3.11 that can make environments was found (tried: $(or $(PYTHON),python3.11, python3))." >&2; \
echo "Install it (python.org; brew install python@3.11; apt install python3.11 python3.11-venv)" >&2; \
echo "or name one: make PYTHON=/path/to/python3.11 setup" >&2; exit 1
endef

# A half-made .venv, left by an interrupted first run, has no pip and is made again.
$(SETUP): pyproject.toml requirements.lock
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		python=$$($(FIND_PYTHON)) && echo "Making .venv with $$python" && $$python -m venv --clear .venv; fi
	@echo "Installing the locked packages (the first time: about 5 GB on Linux, some minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(UV) pip install --python $(PY) --requirement requirements.lock
	@$(UV) pip install --python $(PY) --quiet --no-deps --editable .
	@touch $@
