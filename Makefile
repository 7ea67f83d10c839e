# make demo   adapts two networks on a simulated microcontroller, and shows what it was good for
# make test   runs every test
# make lint   ruff and mypy
# make bench  measures speed and size (benchmarks/)
# make bench-tool  times odl's own commands
# make bench-gvsoc  measures the eight cores of pulp-open, where $ODL_GVSOC is
# make bench-accuracy  trains in binary16 and, by PyTorch, in binary32, on the real data of $ODL_REAL; takes hours
# make fuzz  gives odl hostile files, and trains random networks in five ways that must agree in every bit; takes hours
# make powercut  cuts the power of a training run at every flash operation (campaigns/)
# make conformance  runs ONNX's own backend tests, in NumPy and in C (campaigns/)
# make docs   builds the pages as a site, build/site (mkdocs)
# make clean  removes what the others made
#
# Python packages go into .venv. Where this user may use apt-get, it brings QEMU and what Python lacks.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint docs bench bench-tool bench-gvsoc bench-accuracy fuzz powercut conformance qemu clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/.demo qemu
	$(BIN)/python examples/demo.py

test: $(VENV)/.test qemu
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable silences an advertisement.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'build/site/index.html'

bench: $(VENV)/.test qemu
	$(BIN)/python -m benchmarks

bench-tool: $(VENV)/.test
	$(BIN)/python -m benchmarks.tool_speed

bench-gvsoc: $(VENV)/.test
	$(BIN)/python -m benchmarks.gvsoc

# The CPU build of PyTorch: the other one is gigabytes.
bench-accuracy: $(VENV)/.test
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0+cpu'
	$(BIN)/python -m benchmarks.accuracy $(BENCH_ARGS)

fuzz: $(VENV)/.test qemu
	$(BIN)/python -m campaigns.hostile
	$(BIN)/python -m campaigns.graphs

powercut: $(VENV)/.test qemu
	$(BIN)/python -m campaigns.powercut_report

conformance: $(VENV)/.test
	$(BIN)/python -m campaigns.conformance_report

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call install,python3-venv) || true
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'odl needs Python 3.11 or newer with its venv module: make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The extras of pyproject.toml.
$(VENV)/.demo: EXTRAS = compiler,demo
$(VENV)/.test: EXTRAS = compiler,test
$(VENV)/.docs: EXTRAS = docs
$(VENV)/.demo $(VENV)/.test $(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

# Without QEMU the demo goes on with the host; the tests that need it fail, and say so.
qemu:
	@command -v qemu-system-riscv32 >/dev/null || test -n "$$ODL_QEMU" || $(call install,qemu-system-riscv32) || \
	  echo 'QEMU is missing: apt-get install qemu-system-riscv32 (going on without it)' >&2

clean:
	rm -rf $(VENV) build dist

# apt-get as root, or by sudo where that asks for no password.
install = { command -v apt-get >/dev/null && \
  { [ "$$(id -u)" = 0 ] && as= || { sudo -n true 2>/dev/null && as=sudo; }; } && \
  echo 'installing $(1)' >&2 && $$as apt-get update -qq && \
  $$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }
