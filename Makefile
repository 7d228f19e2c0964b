# Everything runs in a venv of its own: .venv, made from requirements that setup.py names.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLOUD := .venv-cloud
# Tests start processes by the hundred: what these import is compiled once.
unexport PYTHONDONTWRITEBYTECODE
# Brokers, killed processes, two processors for all of them: what fails is tried once more, and what
# it said the first time is shown at the end. A law's examples are the same both times.
RERUNS := --reruns 1 --max-suite-reruns 4 --rerun-show-tracebacks

.PHONY: demo test test-cloud quick fuzz lint bench bench-sinks bench-peers bench-stream bench-startup torture requirements clean

$(STAMP): setup.py pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "millstream needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	mkdir -p $(VENV)/rooms && ln -sfn ../.. $(VENV)/rooms/millstream
	touch $@

# With Google's clients, or pandas, installed it takes far longer to import Beam: a venv apart.
$(CLOUD)/.installed: setup.py pyproject.toml Makefile
	test -x $(CLOUD)/bin/python || $(PYTHON) -m venv $(CLOUD)
	$(CLOUD)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,gcp,s3,yaml,emulators]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/clickstream/demo.py

test: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	-$(BIN)/python -m tests.services.kafka
	-$(BIN)/python -m tests.services.registry
	-$(BIN)/python -m tests.services.flink
	-$(BIN)/python -m tests.services.datacontract
	$(BIN)/python -m pytest $(RERUNS) -m 'not cloud' tests
	$(MAKE) --no-print-directory test-cloud

test-cloud:
	@$(MAKE) --no-print-directory $(CLOUD)/.installed \
		|| echo "skipped: the tests on object stores, BigQuery and Pub/Sub: their packages cannot be installed here"
	-test ! -e $(CLOUD)/.installed || $(CLOUD)/bin/python -m tests.services.bigquery
	test ! -e $(CLOUD)/.installed || $(CLOUD)/bin/python -m pytest $(RERUNS) -m cloud tests

quick: $(STAMP)
	$(BIN)/python -m pytest tests

# Laws against examples that nobody has seen yet, FUZZ times as many as in the tests.
FUZZ ?= 3
fuzz: $(STAMP)
	MILLSTREAM_FUZZ=$(FUZZ) $(BIN)/python -m pytest --timeout 3600 -m 'not service and not cloud' tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	$(BIN)/python benchmarks/run.py $(BENCH)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/letters.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/quality.py

bench-sinks: $(STAMP)
	-$(BIN)/python -m tests.services.kafka
	$(BIN)/python benchmarks/sinks.py $(BENCH)

bench-startup: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	$(BIN)/python benchmarks/startup.py $(BENCH)

torture: $(STAMP)
	$(BIN)/python -m tests.torture $(DESTINATIONS)

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py $(BENCH)

bench-stream: $(STAMP)
	-$(BIN)/python -m tests.services.prism
	-$(BIN)/python -m tests.services.kafka
	$(BIN)/python benchmarks/stream.py $(BENCH)

# What the image holds, to the hash: to be made anew where setup.py has changed.
requirements: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile setup.py \
		$(foreach extra,avro delta encrypt gcp iceberg import kafka lookup postgresql s3 sql,--extra $(extra)) \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
		--no-header --no-annotate --quiet --upgrade --output-file templates/image/requirements.txt

clean:
	rm -rf $(VENV) $(CLOUD) build dist *.egg-info demo
