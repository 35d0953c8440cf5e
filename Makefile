# make demo | test | test-slow | test-gpu | test-vllm | test-clients | clean. Needs Python >= 3.11 (with venv) and a package index; PYTHON=/path/to/python picks one.

SHELL := /bin/bash
VENV := .venv
VENV_VLLM := .venv-vllm
VENV_CLIENTS := .venv-clients
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt
NEEDS := pyproject.toml constraints.txt

.PHONY: demo test test-slow test-gpu test-vllm test-clients clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(VENV)/bin/openjanus demo

test: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy openjanus examples tests/gpu  # the last one also because few machines run it
	$(PY) -m pytest -n 2 --dist worksteal

# Every test but those that need a GPU, vLLM or the clients.
test-slow: $(VENV)/.installed-dev
	$(PY) -m pytest -m "not gpu and not vllm and not clients"

# What needs a GPU, by the machine's own torch, in ten minutes, and one report in OUT or gpu-report; one line where no GPU is.
test-gpu:
	@$(or $(PYTHON),python3) scripts/gpu_report.py $(or $(OUT),gpu-report)

# Both directions on vLLM's CPU backend, and on Ray, in an environment of its own; a reason instead where the wheel cannot be had.
test-vllm:
	@requirements/vllm-venv $(VENV_VLLM) $(PYTHON); code=$$?; \
	if [ $$code = 77 ]; then exit 0; elif [ $$code != 0 ]; then exit $$code; fi; \
	$(VENV_VLLM)/bin/python -m pytest -m vllm tests/fleet

# Real clients of Python and Node against the bundled model, in environments of their own; skipped with a reason where
# they cannot be installed.
test-clients: $(VENV)/.installed-dev
	@requirements/clients-venv $(VENV_CLIENTS) $(PY)
	OPENJANUS_CLIENTS=$(VENV_CLIENTS) $(PY) -m pytest -m clients -rs tests/clients

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_CLIENTS) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(NEEDS) | $(PY)
	@echo "Installing openjanus into $(VENV) (once; torch is large) ..."
	@$(PIP_INSTALL) -e .
	@touch $@

# The development install holds the plain one, so it renews both stamps.
$(VENV)/.installed-dev: $(NEEDS) | $(PY)
	@echo "Installing openjanus[dev] into $(VENV) (once; torch is large) ..."
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(VENV)/.installed $@

# A candidate must run (a pyenv shim may not), be new enough and own venv with pip.
$(PY):
	@for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python); do \
	    "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); exit 1; \
	done; \
	echo "error: no Python >= 3.11 with venv found; install one (Debian, Ubuntu: python3.11 and python3.11-venv) or name it: make demo PYTHON=/path/to/python3.11" >&2; \
	exit 1
