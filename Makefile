# make notebooks   run the three notebooks on the synthetic sample; results in results/
# make test        run the test suite
# make report      build Report.pdf and presentation.pdf from report/results; list what is missing
# make lint        check style and formatting
# Each target makes its own virtual environment in .venv and is quick once that exists.

# Threads that wait for each other sleep. Spinning, the default, makes training on a machine with
# other work to do ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NOTEBOOKS := MALIS_training Inference Evaluation

.PHONY: notebooks refresh-notebooks report test lint format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.requirements: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.requirements-dev: requirements-dev.txt requirements-report.txt requirements-scale.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

notebooks: $(VENV)/.requirements
	mkdir -p results
	set -e; for name in $(NOTEBOOKS); do \
		$(BIN)/python -m nbconvert --to notebook --execute --output-dir results notebooks/$$name.ipynb; \
	done
	@echo "The executed notebooks, the segmentation and the scores are in results/."

refresh-notebooks: $(VENV)/.requirements
	set -e; for name in $(NOTEBOOKS); do \
		$(BIN)/python -m nbconvert --to notebook --execute --inplace notebooks/$$name.ipynb; \
	done

$(VENV)/.requirements-report: requirements-report.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-report.txt
	touch $@

report: $(VENV)/.requirements-report
	$(BIN)/python -m report.build

test: $(VENV)/.requirements-dev
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=900 tests notebooks

lint: $(VENV)/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.requirements-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf results .pytest_cache .ruff_cache .hypothesis
