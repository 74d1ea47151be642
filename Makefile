# Every target sets up what it needs by itself: a fresh machine with make and Python 3.11 is enough.

PYTHON ?= python3
VENV ?= .venv
# A profile for `make smoke`; empty: the best one for the hardware found.
PROFILE ?=
# Passed on: `make test ARGS="-k gateway"`, `make bench ARGS=--quick`.
ARGS ?=
# Processes that share the tests: many of them wait, and one of the processes has the real engine.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)

RUN := $(VENV)/bin
STAMP := $(VENV)/installed

# Keeps PyTorch's libraries to AVX2, so that a newer processor shows what one without AVX-512 would.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	FBGEMM_ENABLE_INSTRUCTIONS=AVX2

.PHONY: help setup smoke test test-avx2 soak fuzz check bench docs docs-site pictures engine engines packages

help:
	@echo "make setup    the environment in $(VENV)"
	@echo "make smoke    install, start, prove, show and stop a profile (PROFILE=$(or $(PROFILE),best))"
	@echo "make test     all tests, the ones on the real engine included"
	@echo "make test-avx2  all tests as on a processor without AVX-512, bf16 and VNNI"
	@echo "make soak     hundreds of lives of a service: nothing may grow"
	@echo "make fuzz     20,000 requests of every kind to the real engine: it lives, vectors and memory stay"
	@echo "make engines  the CUDA releases installed and tried without a GPU: docs/gpu.md"
	@echo "make check    ruff and mypy"
	@echo "make bench    the benchmarks of the README"
	@echo "make pictures the pictures of docs/images, from real records"
	@echo "make docs-site  the pages as a web site, in build/site"
	@echo "make docs     what is generated: pages and schemas of docs/, profiles/schema.json"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "qlaunch needs Python 3.11 or newer: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@PYTHON=$(PYTHON) scripts/debian-packages venv
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV)"
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(RUN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

smoke: setup
	@$(RUN)/qlaunch smoke --up $(PROFILE)

# An empty value lets Python keep what it has compiled: the tests start some thousand Pythons.
KEPT = PYTHONDONTWRITEBYTECODE=

test: setup packages engine
	@$(KEPT) $(RUN)/python -m pytest -n $(WORKERS) $(ARGS)

test-avx2: setup packages engine
	@$(KEPT) $(AVX2) $(RUN)/python -m pytest -n $(WORKERS) $(ARGS)

soak: setup engine
	@QLAUNCH_SOAK=1 QLAUNCH_FUZZ_LOGS=100000 $(RUN)/python -m pytest -m "soak or case" -s $(ARGS) \
		tests/engine/test_failure_shapes.py tests/reliability/test_soak.py \
		tests/reliability/test_course.py tests/engine_real/test_deaths.py tests/corpus/test_size.py \
		tests/fleet/test_clean_root.py
	@$(RUN)/python -m tests.reliability.table

fuzz: setup engine
	@QLAUNCH_FUZZ_REQUESTS=$${QLAUNCH_FUZZ_REQUESTS:-20000} $(RUN)/python -m pytest -s $(ARGS) \
		tests/engine_real/test_fuzz.py

check: setup
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy

bench: setup engine
	@$(RUN)/python -m benchmarks.run $(ARGS)

docs: setup
	@$(RUN)/python -m tools.cli_reference
	@$(RUN)/python -m tests.checkpoints.page
	@$(RUN)/python -m tools.profile_table
	@$(RUN)/python -m launcher.config.schema
	@$(RUN)/python -m tools.profile_keys
	@$(RUN)/python -m tools.document_schemas
	@$(RUN)/python -m tools.error_pages

# An environment of its own; every warning (a broken link, a page that the menu forgets) is an error.
SITE := build/site-venv

$(SITE)/installed: pyproject.toml
	@test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	@echo "setting up $(SITE)"
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --group site
	@touch $@

docs-site: $(SITE)/installed
	@$(SITE)/bin/python -m tools.site_pages build/site-pages
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/python -m mkdocs build --strict --site-dir build/site
	@echo "build/site/index.html"

# Returns at once where it is installed.
engine: setup
	@$(RUN)/qlaunch engine install cpu

# The CUDA releases on a machine without a GPU: up to 12 GB each, one after the other.
engines: setup
	@$(RUN)/qlaunch model pull all-minilm-l6-v2
	@$(RUN)/python -m tests.engines_cuda $(ARGS)

# From the latest run and what runs now; `ARGS="--comparison FILE"` for that of a comparison too.
pictures: setup
	@PYTHON=$(PYTHON) scripts/debian-packages browser
	@$(RUN)/python -m tools.pictures $(ARGS)

packages:
	@PYTHON=$(PYTHON) scripts/debian-packages tests browser shells
