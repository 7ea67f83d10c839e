# make demo   trains two networks for a new user, on a simulated microcontroller, and shows what it was good for
# make test   runs every test
# make lint   ruff and mypy
# make bench  measures speed and size (benchmarks/)
#
# Python packages go into .venv. QEMU comes from the system's packages where this user may install them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench qemu clean

demo: $(VENV)/.demo qemu
	$(BIN)/python examples/demo.py

test: $(VENV)/.test qemu
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test qemu
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call install,python3-venv)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[compiler,demo]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[compiler,test]'
	@touch $@

# Without QEMU the demo goes on with the host; the tests that need it fail, and say so.
qemu:
	@command -v qemu-system-riscv32 >/dev/null || $(call install,qemu-system-misc) || \
	  echo 'QEMU is missing: apt-get install qemu-system-misc (going on without it)' >&2

clean:
	rm -rf $(VENV) build dist

# apt-get as root, or by sudo where that asks for no password.
install = { command -v apt-get >/dev/null && \
  { [ "$$(id -u)" = 0 ] && as= || { sudo -n true 2>/dev/null && as=sudo; }; } && \
  echo 'installing $(1)' >&2 && $$as apt-get update -qq && \
  $$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }
