# Two commands: `make demo` and `make test`. Each takes a fresh clone on a fresh machine to its end, in its own .venv.
#
# torch is installed first and pinned, so that nothing else chooses a build of it. On Linux the default package index
# serves torch with CUDA; for the small CPU build there: make demo TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test docs thorough lint install clean

demo: install
	$(BIN)/circuitfind discover --out runs/demo --force
	@echo "The picture: runs/demo/circuit.svg (and .png); the numbers: runs/demo/evaluation.json"

# A process for every core, each with one thread: small tests gain nothing from more.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --durations 10

# Minutes. Tests that take long, and most of the architectures that many tests try, are left to `make thorough`.
test: install lint
	$(TESTS)

# The manual as a site: build/site/index.html. A warning, such as a link to nowhere, is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "The manual: build/site/index.html; an index of its plain texts: build/site/llms.txt"

# What `make test` leaves out (tests/left_out.txt).
thorough: install
	$(TESTS) --tests rest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installs torch and circuitfind into $(VENV): 2 to 4 minutes, only once"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "circuitfind needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 $(TORCH_INDEX)
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
