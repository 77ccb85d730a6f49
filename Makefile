# Needs only Python 3.11 to 3.14 and make; everything else goes into .venv.
# Another interpreter: make demo PYTHON=/path/to/python
# One combination of many: make pythons ARGS="--python 3.12 --dependencies lowest"

.DEFAULT_GOAL := help
.PHONY: help demo test check pythons docs clean

PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python)
VENV := .venv
BIN := $(VENV)/bin

# uv as a shell variable: that on PATH, or else one in the environment
define UV
if uv --version >/dev/null 2>&1; then uv=uv; else \
		$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv || exit 1; \
		uv="$(BIN)/python -m uv"; \
	fi
endef

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## prune a small trained network; the result goes to out/demo
	$(BIN)/secateur demo --out out/demo

test: $(VENV)/.installed-test  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/.installed-dev  ## style, types, layering
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

pythons: | $(BIN)/python  ## install and test on every Python found, with the newest and the lowest dependencies
	@$(UV); $(BIN)/python scripts/pythons.py --uv "$$uv" $(ARGS)

docs: $(VENV)/.installed-dev  ## the documentation, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:  ## remove what was made here, the environment too
	rm -rf $(VENV) .pythons out build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests docs benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# the stamp is renewed when the requirements change
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@$(UV); \
	echo "installing secateur[$*] into $(VENV)"; \
	$$uv pip install --python $(BIN)/python -e '.[$*]'
	@touch $@

# without uv and ensurepip (some Linux distributions), the interpreter's own pip puts uv into the environment
$(BIN)/python:
	@python=; for candidate in $(CANDIDATES); do \
		found=$$($$candidate -c 'import sys; (3, 11) <= sys.version_info < (3, 15) and print(sys.executable)' 2>/dev/null); \
		if [ -n "$$found" ]; then python=$$found; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 to 3.14 among: $(CANDIDATES); install one, or name it with PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	if uv --version >/dev/null 2>&1; then uv venv --quiet --python "$$python" $(VENV); \
	elif "$$python" -m ensurepip --version >/dev/null 2>&1; then "$$python" -m venv $(VENV); \
	elif "$$python" -m pip --version >/dev/null 2>&1; then \
		"$$python" -m venv --without-pip $(VENV) && "$$python" -m pip --python $(BIN)/python install --quiet uv; \
	else \
		echo "$$python has neither ensurepip nor pip; install uv, or your system's python3-venv package" >&2; \
		exit 1; \
	fi
