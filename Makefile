# make quickstart   set up .venv, then segment a picture with the bundled model
# make test         set up .venv, then lint, types and tests (all but those marked slow)
#
# PYTHON=python3.12   that interpreter, as it is where it has all that the tests need, else as the one .venv is made from

VENV := .venv
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

NEEDED := torch transformers accelerate av datasets ftfy gradio matplotlib mypy peft pycocotools pytest ruff scipy selenium trackeval \
	xdist yaml
IS_READY := import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))
READY := $(if $(PYTHON),$(shell $(PYTHON) -c '$(IS_READY)' $(NEEDED) && echo yes))
RUN := $(if $(READY),$(PYTHON),$(VENV)/bin/python)
SETUP := $(if $(READY),,$(INSTALLED))
BASE := $(or $(PYTHON),python3)

# The sources are found without an installation too, so an interpreter that is used as it is needs only the dependencies.
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: help install quickstart test test-slow lint types format clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile

install: $(SETUP)

# A stamp: made again only when what is installed changes. torch comes first and pinned, because a bare range may pull in
# the newest build with gigabytes of CUDA packages that a CPU machine has no use for.
$(INSTALLED): setup.py constraints.txt
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "constraints.txt needs Python 3.11 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(BASE) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(SETUP)
	$(RUN) -m sam3_hf.quickstart

test: lint types
	$(RUN) -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(SETUP)
	$(RUN) -m pytest -m slow

lint: $(SETUP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(SETUP)
	$(RUN) -m mypy

format: $(SETUP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
