# Every target sets up what it needs in .venv, from nothing but Python and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/qpatchbench

.PHONY: help demo test test-portable test-faults test-docs test-web test-latex docs lint gpu-check bench bench-scale \
	quantizer-table verify-entries clean

help:            ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(VENV)/demo.done  ## the whole pipeline on real digits: leaderboard and plots in results/quickstart
	$(BIN)/qpatchbench run suites/quickstart.yaml

# One thread for each of the two workers: more would wait for one another. Byte code is kept: many tests start Python.
test: $(VENV)/test.done  ## all tests
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# SEEDS=5 adds five runs with other random numbers, as the margin of a new threshold is measured.
test-portable: $(VENV)/test.done  ## the numerical tests under every instruction set of this processor, 1 and 2 threads
	$(BIN)/python -m tests.portable --seeds $(or $(SEEDS),0) $(TESTS)
	$(BIN)/python -m pytest tests/ops/machine_code.py

test-faults: $(VENV)/test.done    ## kills, damaged and forged files, fuzzed ones, several processes: tried and held
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

# ONLY=scaling runs the documents whose path contains that.
test-docs: $(VENV)/test.done      ## every command of README, CONTRIBUTING and docs/, typed as a reader types it
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.documents $(if $(ONLY),--only $(ONLY))

# Chromium and pdftotext come from the system: apt-get install chromium poppler-utils
test-web: $(VENV)/web.done        ## the report page in headless Chromium; screenshots in build/web
	$(BIN)/python -m pytest tests/web/page.py

test-latex: $(VENV)/test.done     ## every LaTeX export, typeset within its page
	@command -v pdflatex >/dev/null || { echo "expected pdflatex, found none: apt-get install texlive-latex-recommended"; exit 1; }
	$(BIN)/python -m pytest -k "latex or typeset" tests/report tests/papers tests/cli/test_claims.py

docs: $(VENV)/demo.done $(VENV)/docs/done  ## the site in build/site, with a reference from the code; links are checked
	rm -rf build/site-source build/site
	$(BIN)/python docs/site.py build/site-source
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --quiet

lint: $(VENV)/dev.done   ## lint, format and types, as continuous integration checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the Python that has torch for this GPU; what else is missing there comes from a folder of wheels:
# python -m pip install --no-index --no-deps --target site *.whl, and PYTHONPATH=site.
gpu-check:       ## one GPU: components agree with the CPU, kernels, speed, a leaderboard: DATA=folder of CIFAR-10
	$(PYTHON) -m tests.gpu --data-dir "$(DATA)"

# ONLY=strength measures how strong attacks are, which takes longer than all the rest.
bench: $(VENV)/test.done ## speed, as ratios measured side by side
	$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

bench-scale: $(VENV)/test.done ## what many jobs cost besides their work, and two workers beside one, on quiet cores
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.scale

quantizer-table: $(VENV)/test.done ## clean accuracy of all quantizers, next to Brevitas: DATA=folder, WEIGHTS=a CIFAR-10 ResNet-20
	$(BIN)/python -m tests.bench.quantizers --data-dir "$(DATA)" --cache-dir "$(CACHE)" \
		--results "$(CACHE)/quantizer-table.json" $(if $(WEIGHTS),--cifar-weights "$(WEIGHTS)") --write docs/quantizers.md

verify-entries: $(VENV)/test.done ## every number of the entries, and of the protocol, again
	@for made in results/entries/*/manifest.json results/protocol/*/manifest.json; do \
		echo "$${made%/*}"; $(BIN)/qpatchbench verify "$${made%/*}" || [ $$? -eq 3 ] || exit 1; done

clean:           ## remove the virtual environment and build leftovers
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/test.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt $(VENV)/test.done | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

$(VENV)/web.done: pyproject.toml constraints.txt $(VENV)/test.done | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,web]'
	@touch $@

$(VENV)/docs/done: constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip install --quiet --constraint constraints.txt mkdocs-material
	@touch $@
