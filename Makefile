# `make demo` runs the example job, `make test` the whole suite; both need only Python >= 3.11.
# VENV, PYTHON and JOBS may be given: make test VENV=/tmp/venv PYTHON=python3.12

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PYTEST_ARGS ?=
JOBS ?= 2
BENCH_ARGS ?=

.PHONY: help demo test torch jax lint format coverage soak bench bench-quick bench-growth bench-peers guard clean

help:
	@echo 'make demo      run the example job on four workers'
	@echo 'make test      run all tests, in two processes (JOBS=0: in one; PYTEST_ARGS="-m \"not slow\"": the quick ones)'
	@echo 'make torch     install torch too, for the tests that need it'
	@echo 'make jax       install JAX too, likewise'
	@echo 'make lint      ruff, formatting, mypy'
	@echo 'make coverage  run all tests and show what they miss'
	@echo 'make soak      run many more random schedules of calls, retries and rendezvous, and restarts'
	@echo 'make bench     measure against the limits of the machine and installed peers (10 minutes)'
	@echo 'make bench-quick   the same without peers, in 90 s'
	@echo 'make bench-peers   install the peers that the benchmarks compare with (2 GB)'
	@echo 'make bench-growth  show how time and memory grow, to bench-growth.png'
	@echo 'make guard     count the instructions of a small call; a tenth more than before fails (needs valgrind)'
	@echo 'make clean     remove what the targets above leave behind'

demo: $(VENV)/.installed
	$(BIN)/python -m launcher --standalone --nproc-per-node 4 examples/wordcount.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST_ARGS)

# Tests that need torch are skipped without it. 2.13.0 is the version they are written for.
torch: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0

# Likewise, and 0.10.2.
jax: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check jax==0.10.2

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

coverage: $(VENV)/.installed-test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(VENV)/.installed-test
	MESH_SEEDS=8 RREF_SEEDS=500 RETRY_SEEDS=200 ETCD_SEEDS=20 SHARED_TRANSFERS=10000 \
		$(BIN)/python -m pytest tests/adversity $(PYTEST_ARGS)
	CLUSTER_SOAK=1 $(BIN)/python -m pytest tests/launcher/test_slurm.py tests/launcher/test_pods.py $(PYTEST_ARGS)
	STORE_RACES=1000 TORCH_SOAK=1 $(BIN)/python -m pytest tests/store/test_torch_clients.py \
		tests/launcher/test_torch.py tests/launcher/test_jax.py $(PYTEST_ARGS)
	ETCD_ROUNDS=10 $(BIN)/python -m pytest tests/launcher/test_on_etcd.py $(PYTEST_ARGS)
	RENDEZVOUS_SEEDS=10000 $(BIN)/python -m pytest tests/launcher/rendezvous/test_simulation.py $(PYTEST_ARGS)
	PARTITION_SECONDS=60 $(BIN)/python -m pytest tests/launcher/test_partitions.py $(PYTEST_ARGS)
	LAUNCHER_RESTARTS=1000 $(BIN)/python -m pytest tests/launcher/test_restarts.py $(PYTEST_ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench_all.py $(BENCH_ARGS)

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench_all.py --quick $(BENCH_ARGS)

bench-peers: $(VENV)/.installed-bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peers.txt

bench-growth: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench_growth.py --plot bench-growth.png $(BENCH_ARGS)

guard: $(VENV)/.installed-test
	$(BIN)/python benchmarks/bench_instructions.py --check benchmarks/history.jsonl

clean:
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find asyncrpc launcher tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: `make demo` on a fresh machine fetches only what the job needs.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or later is needed: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
