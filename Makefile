# make notebooks     run the three notebooks on the synthetic sample; results in results/
# make test          run the test suite
# make test-lowest   run the tests of the method with the lowest versions that are allowed
# make lint          check style, formatting and who imports whom
# make report        build Report.pdf, presentation.pdf and the tables of README.md from report/results
# make dist          build a wheel and a source archive in dist/
# make api           write the public names into malis/README.md
# make links         write the public address in pyproject.toml into README, CITATION.cff, notebooks
# make lock          write requirements-lock.txt anew; another torch by TORCH=...
#
# Each target makes its own virtual environment in .venv and is quick once that exists. All of them
# install the exact versions of requirements-lock.txt, so tests and notebooks see the same ones.

# Threads that wait for each other sleep. Spinning, the default, makes training on a machine with
# other work to do ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

PYTHON    ?= python3
TORCH     ?= 2.13.0
VENV      := .venv
BIN       := $(VENV)/bin
LOWEST    := .venv-lowest
NOTEBOOKS := MALIS_training Inference Evaluation
PIP       := -m pip install --quiet --disable-pip-version-check

# The notebooks ask for the kernel "python3": that of this environment, whatever a user has installed.
export JUPYTER_PATH := $(abspath $(VENV))/share/jupyter

.PHONY: notebooks refresh-notebooks test test-lowest lint format report dist api links lock clean

OLD_ENOUGH = $(shell $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) and print("yes")' 2>&1)
VERSION    = $(shell $(PYTHON) --version 2>&1)

$(BIN)/python:
	$(if $(filter yes,$(OLD_ENOUGH)),,$(error Python 3.11 or later is needed, and $(PYTHON) is $(or $(VERSION),not found). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)))
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml requirements-lock.txt | $(BIN)/python
	$(BIN)/python $(PIP) --constraint requirements-lock.txt --editable ".[$*]"
	touch $@

notebooks: $(VENV)/.installed-notebooks
	mkdir -p results
	set -e; for name in $(NOTEBOOKS); do \
		$(BIN)/python -m nbconvert --to notebook --execute --output-dir results notebooks/$$name.ipynb; \
	done
	@echo "The executed notebooks, the segmentation and the scores are in results/."

refresh-notebooks: $(VENV)/.installed-notebooks
	set -e; for name in $(NOTEBOOKS); do \
		$(BIN)/python -m nbconvert --to notebook --execute --inplace notebooks/$$name.ipynb; \
	done
	$(BIN)/python notebooks/shrink.py $(NOTEBOOKS:%=notebooks/%.ipynb)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests

$(LOWEST)/.installed: pyproject.toml requirements-lock.txt .ci/lowest.py | $(BIN)/python
	$(BIN)/python -m venv $(LOWEST)
	$(BIN)/python .ci/lowest.py fast notebooks > $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python $(PIP) -r $(LOWEST)/requirements.txt "pytest<10" pytest-timeout hypothesis
	touch $@

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest --quiet \
		$(filter-out tests/malis/test_packaging.py,$(wildcard tests/malis/test_*.py)) \
		tests/malis/training tests/malis/inference tests/malis/segmentation \
		tests/malis/compiled tests/malis/tensor_backend tests/cremi_eval tests/unet \
		--ignore=tests/malis/segmentation/test_quality.py  # of the report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(VENV)/.installed-report
	$(BIN)/python -m report.build

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation

api: $(VENV)/.installed-dev
	$(BIN)/python .ci/api.py

links: $(VENV)/.installed-dev
	$(BIN)/python .ci/links.py

lock: $(BIN)/python
	$(BIN)/python $(PIP) --dry-run --ignore-installed --report $(VENV)/lock.json torch==$(TORCH) --editable ".[dev]"
	$(BIN)/python .ci/lock.py < $(VENV)/lock.json > $(VENV)/lock.txt
	mv $(VENV)/lock.txt requirements-lock.txt

clean:
	rm -rf results dist .pytest_cache .ruff_cache .hypothesis
