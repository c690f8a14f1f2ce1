# `make` lists the targets. Each sets up .venv first, if it is missing or older than what it is made from.
#     make test ARGS="-k contraction"      ARGS goes to pytest or to the demo
#     make test PYTHON=/path/to/python     for making .venv; see scripts/find_python.sh
.DEFAULT_GOAL := help
.PHONY: help install test whole-path demo lint format clean

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Containers often tell Python to write no bytecode; then every process spends 20 s on compiling LeRobot and torch
# again. Here the first one that imports a module writes it, which is also quicker than compiling all on installing.
unexport PYTHONDONTWRITEBYTECODE

# uv where there is one, else venv and pip. Both print errors alone.
UV      = $(shell uv --version 2>/dev/null)
PROBE   = $(PY) $(if $(UV),-c "",-m pip --version)
CREATE  = $(if $(UV),uv venv --quiet --python "$$python" $(VENV),"$$python" -m venv $(VENV))
INSTALL = $(if $(UV),uv pip install --quiet --python $(PY),$(PY) -m pip install -qq --no-compile)

# These move an arm in real time, and run alone.
REAL_TIME = tests/arm/test_rollout.py tests/arm/test_torque_off.py tests/arm/test_twin.py
# Minutes of starting processes, where a defect shows in the other tests first.
WHOLE_PATH = tests/commands/test_whole_path.py

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(STAMP)  ## set up .venv: this package, editable, with everything for development

# An environment whose Python is gone, or that uv made without pip and now pip must serve, is made anew.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(PROBE) >/dev/null 2>&1; then \
	    python=$$(sh scripts/find_python.sh) || exit 1; \
	    echo "Making $(VENV) with $$python"; \
	    rm -rf $(VENV) && $(CREATE) || exit 1; \
	fi
	@echo "Installing into $(VENV): some minutes the first time, most of it PyTorch"
	@$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: $(STAMP)  ## run the tests
ifeq ($(ARGS),)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(patsubst %,--ignore=%,$(REAL_TIME) $(WHOLE_PATH))
	$(PY) -m pytest $(REAL_TIME)
else
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)
endif

whole-path: $(STAMP)  ## run docs/whole_path.sh on a tiny budget
	$(PY) -m pytest $(WHOLE_PATH)

demo: $(STAMP)  ## record, train and compare small policies
	@$(PY) -m eval.demo $(ARGS)

lint: $(STAMP)  ## check style and format
	$(PY) -m ruff check
	$(PY) -m ruff format --check

format: $(STAMP)  ## correct style and format where ruff can
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean:  ## remove .venv, builds and caches; outputs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
