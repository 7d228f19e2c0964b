# Everything runs in a venv of its own: .venv, made from requirements that setup.py names.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLOUD := .venv-cloud

.PHONY: demo test test-cloud quick lint bench bench-sinks bench-peers bench-stream torture clean

$(STAMP): setup.py pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "millstream needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	mkdir -p $(VENV)/rooms && ln -sfn ../.. $(VENV)/rooms/millstream
	touch $@

# With Google's clients installed it takes twice as long to import Beam: they have a venv apart.
$(CLOUD)/.installed: setup.py pyproject.toml Makefile
	test -x $(CLOUD)/bin/python || $(PYTHON) -m venv $(CLOUD)
	$(CLOUD)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,gcp,s3,emulators]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/clickstream/demo.py

test: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	-$(BIN)/python -m tests.services.kafka
	-$(BIN)/python -m tests.services.registry
	$(BIN)/python -m pytest -m 'not cloud' tests
	$(MAKE) --no-print-directory test-cloud

test-cloud:
	@$(MAKE) --no-print-directory $(CLOUD)/.installed \
		|| echo "skipped: the tests on object stores, BigQuery and Pub/Sub: their packages cannot be installed here"
	-test ! -e $(CLOUD)/.installed || $(CLOUD)/bin/python -m tests.services.bigquery
	test ! -e $(CLOUD)/.installed || $(CLOUD)/bin/python -m pytest -m cloud tests

quick: $(STAMP)
	$(BIN)/python -m pytest tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-sinks: $(STAMP)
	-$(BIN)/python -m tests.services.kafka
	$(BIN)/python benchmarks/sinks.py $(BENCH)

torture: $(STAMP)
	$(BIN)/python -m tests.torture $(DESTINATIONS)

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py $(BENCH)

bench-stream: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	-$(BIN)/python -m tests.services.kafka
	$(BIN)/python benchmarks/stream.py $(BENCH)

clean:
	rm -rf $(VENV) $(CLOUD) build dist *.egg-info demo
