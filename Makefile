# The only door: people and CI use the same targets. A fresh clone needs python3 (with venv and pip) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint bench fuzz golden readme screenshot check-readme release-check clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: $(VENV)/.installed
	$(BIN)/bninspect summary resnet18 --input 3,418,418

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m pytest tests/benchmarks --override-ini='addopts=-q -s --import-mode=importlib'

fuzz: $(VENV)/.installed
	$(BIN)/python tests/fuzz.py
	$(BIN)/python tests/search.py

golden: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_golden.py --update-golden

readme: $(VENV)/.installed
	$(BIN)/python tests/readme.py --write

screenshot: $(VENV)/.installed
	$(BIN)/python tests/screenshot.py

check-readme: $(VENV)/.installed
	$(BIN)/python tests/readme.py --check

release-check:
	rm -rf dist .release
	$(PYTHON) -m venv .release
	.release/bin/python -m pip install --quiet --disable-pip-version-check build twine
	.release/bin/python -m build --outdir dist .
	.release/bin/python -m twine check --strict dist/*
	.release/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && ../.release/bin/bninspect summary resnet18 --input 3,418,418 && ../.release/bin/bninspect demo

clean:
	rm -rf $(VENV) .release dist
