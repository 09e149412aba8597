# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format docs cli-page system-pages serve prove bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "manynet needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing manynet and its libraries into $(VENV): once, about 7 GB and 3 to 10 minutes ..."
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "Installed."

demo: $(READY) ## turn a small network into a family, train it on digits, search it, export three members
	@out=runs/demo; n=1; \
	while [ -e "$$out/report.html" ]; do n=$$((n + 1)); out=runs/demo-$$n; done; \
	$(BIN)/manynet run --out "$$out"

test: $(READY) ## the fast tests and the examples in the docstrings
	@$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --doctest-modules src tests

test-all: $(READY) ## every test, the slow ones too
	@$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --doctest-modules -m 'not bench and not gpu' src tests

check: $(READY) ## format, lint, types and documentation, as in CI
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict src
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY) ## format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(READY) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "Open site/index.html in a browser."

cli-page: $(READY) ## renew the page of the command line from its own help
	@$(BIN)/python docs/cli_page.py

system-pages: $(READY) ## renew the pages of the published systems from their results
	@$(BIN)/python docs/system_pages.py

serve: $(READY) ## show the documentation on this machine, renewed at each change
	@$(BIN)/mkdocs serve

prove: $(READY) ## run the proof of every system that is built; goes on where it was stopped
	@for name in $$($(BIN)/python -c 'from manynet.systems import built; print(*(s.name for s in built().values()))'); do \
	  $(ONE_THREAD) $(BIN)/manynet reproduce $$name --workers 2 --out docs/results || exit 1; done

$(READY)-bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(READY)-bench ## measure speed and accuracy into benchmarks/results/; this takes long
	@for file in benchmarks/[!_]*.py; do echo "$$file ..."; $(ONE_THREAD) $(BIN)/python $$file || exit 1; done

clean: ## remove what was built; runs/ stays
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
