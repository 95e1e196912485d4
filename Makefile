# make sweep    regenerate the study: results/
# make quick    run the tests of the formulas and of what users see
# make test     run every test but kills, faults and what takes an hour
# make check    run every static check
# make bench    measure time, memory and size
# make docs     build the documentation as one site, with the library's pages: site/index.html
# make audit    compare what uv.lock pins with the published vulnerabilities (asks the network)
# make sbom     write what uv.lock pins as a bill of materials: sbom.cdx.json (CycloneDX)
# make calibrate  fit the cost model to measured runs; rewrites constants and docs/validation.md
#
# Needs python3 >= 3.11 with venv, make and git (from Python 3.14 on also a C compiler: one dependency has
# no wheel for it yet). The first target you run creates .venv from uv.lock.
# VERBOSE=1 shows Snakemake's own lines instead of a line a stage.
# PROFILE=slurm runs the sweep on a cluster: docs/slurm.md.
# SWEEP=config/sweeps/x.yaml RESULTS=out/x CLUSTER=name run something else than config/config.yaml says.
# ARGS go to the program behind the target: make sweep ARGS=--dry-run, make test ARGS="-k units -x"

.PHONY: help sweep quick test check bench docs audit sbom calibrate
.SUFFIXES:

PYTHON ?= python3
PROFILE ?= default
# Other environments (see pixi.toml) name their own BIN, and an empty READY: nothing to create.
BIN   ?= $(CURDIR)/.venv/bin
READY ?= .venv/ready
# Rules and tests call `moesweep` and `snakemake` by name.
RUN = PATH="$(BIN):$$PATH"
# Downloads and source caches stay in the checkout, so an empty or read-only HOME does not matter.
export XDG_CACHE_HOME ?= $(CURDIR)/.cache
# Images of containers often set this; every process would then compile every library again.
unexport PYTHONDONTWRITEBYTECODE

# What the command line of make says, and not the environment, where such names may mean something else.
told = $(if $(findstring command,$(origin $(1))),$(2) '$(3)$($(1))')

help:
	@sed -n 's/^# make/make/p' Makefile

sweep: $(READY)
	@$(RUN) moesweep run --profile $(PROFILE) $(call told,RESULTS,--results,) \
		$(call told,SWEEP,--set,sweep=) $(call told,CLUSTER,--set,cluster=) -- $(ARGS)

QUICK = hand_worked house units steps parallelism sweep rules cli runs library
quick: $(READY)
	@$(RUN) pytest -n 2 --dist loadfile -m "not slow and not long" $(QUICK:%=tests/test_%.py) $(ARGS)

test: $(READY)
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo
	@$(RUN) snakefmt --check Snakefile workflow/rules

bench: $(READY)
	@$(RUN) python tests/bench.py $(ARGS)

# A warning, such as a link that leads nowhere, is an error.
docs: $(READY)
	@$(RUN) sphinx-build --quiet --fail-on-warning --keep-going docs site $(ARGS)
	@echo "site/index.html: open it in a browser"

audit: $(READY)
	@$(RUN) uv audit --preview --frozen $(ARGS)

sbom: $(READY)
	@$(RUN) uv export --preview --quiet --frozen --format cyclonedx1.5 --output-file sbom.cdx.json $(ARGS) >/dev/null

calibrate: $(READY)
	@$(RUN) moesweep calibrate tests/data/measured_runs.csv tests/data/measured_runs_gpus.csv $(ARGS)

# uv installs exactly what uv.lock pins. A fresh machine has no uv, so pip brings that of uv.lock, and refuses
# a file with another hash; a venv of our own also works where the system's Python refuses installs (PEP 668).
UV = import tomllib; uv = next(p for p in tomllib.load(open("uv.lock", "rb"))["package"] if p["name"] == "uv"); \
	print("uv==" + uv["version"], *("--hash=" + file["hash"] for file in [uv["sdist"], *uv["wheels"]]))

.venv/ready: pyproject.toml uv.lock
	@echo "Creating .venv from uv.lock (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MoE Sweep needs Python 3.11 or newer")'
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -c '$(UV)' > .venv/uv.txt
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r .venv/uv.txt
	@.venv/bin/uv sync --quiet --frozen --no-python-downloads
	@touch $@
