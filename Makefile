# Everything runs in a venv of its own: .venv, made from requirements that setup.py names.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test quick lint bench bench-peers clean

$(STAMP): setup.py pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "millstream needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	mkdir -p $(VENV)/rooms && ln -sfn ../.. $(VENV)/rooms/millstream
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/clickstream/demo.py

test: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	$(BIN)/python -m pytest -m '' tests

quick: $(STAMP)
	$(BIN)/python -m pytest tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info demo
