# make dev      a running kmsd with a software token of its own, and a first round trip
# make dev-remote  a key manager with a CA, and a node that enrols and serves through it, on this machine
# make test     lint, types, import contracts, drift of generated files, all tests
# make install  .venv with kmsd, kmsctl and kmstui, from locked versions
# make check    what make test does before the tests
# make tests    the tests alone, ARGS="-k sockets" for some of them
# make unit     the tests of the kernel that start no process, in half a minute
# make coverage which branches of the kernel those reach, and that they are not fewer than before
# make bench    what kmsd answers and costs beside others, in ten minutes; writes docs/PERFORMANCE.md
#               ARGS=remote: what a key manager and a proxy take, in three minutes; docs/sizing.md, too
# make chaos    every fault that docs/RELIABILITY.md lists, brought about and measured; writes that page
# make kills    a hundred kills of the process that has the token, under 16 callers
# make soak     half an hour of load, rotations and faults, SOAK_SECONDS=... for another time
#               ARGS=renewal: ten minutes of nodes that renew their certificates, and a CA that is rolled
# make replicas one enrolment token used 200 times at once at eight key managers: one certificate
# make fuzz     a minute of bytes that nobody thought of, for all that strangers reach, ARGS="--seconds 3600" for more
# make screenshots  draw docs/screenshots anew
# make dashboard  draw docs/screenshots/dashboard.svg anew, from a minute of a real kmsd
# make docs     the site of README and docs/ in build/site, with every link looked at
# make gen      write anew what is generated from the code: kmsd/api, docs/architecture.svg, docs/metrics.md,
#               docs/reference, docs/screenshots
# make proto    write kmsd/api anew from protos/
# make lock     write requirements/*.lock anew
# make format   put the code into its form
# make vuln     look the locked versions up in the advisory database (also: make audit)
# make build    wheel, sdist and SBOM in dist/, and the wheel shown to run without this folder
# make deb      a package for Debian 12 in dist/, ARCH=arm64 for that architecture; it needs no compiler
# make packages-test  that package in a Debian of its own: installed, used, upgraded, removed; docs/quickstart.md there,
#               timed; and the commands of the image. Five minutes
# make debug    kmsd dev with debugpy at 127.0.0.1:5678, ARGS="serve ..." for another command
PYTHON ?= python3
export PYTHON
# Compiled once, beside the tree and not all over it: tests start many processes. Where the environment forbids to write
# what is compiled, each of them would compile all that it imports.
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.venv/pycache
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-dev dev dev-remote test check lint types contracts drift tests unit coverage bench chaos kills soak \
  fuzz screenshots dashboard gen proto lock format vuln audit build deb packages-test docs debug replicas

help:
	@sed -n 's/^# make/make/p' Makefile

install:
	@sh scripts/install.sh

install-dev:
	@sh scripts/install.sh dev

dev: install
	@sh scripts/dev.sh

dev-remote: install
	@sh scripts/dev-remote.sh

test: install-dev
	@sh scripts/test-tools.sh
	@$(MAKE) --no-print-directory check tests

check: lint types contracts drift

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types:
	.venv/bin/mypy

contracts:
	.venv/bin/lint-imports

drift:
	@sh scripts/gen.sh --check

# Most tests wait for processes of their own: four at a time keep two cores busy. tests/conftest.py says which begin.
tests:
	.venv/bin/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --ignore=tests/security/test_floods.py $(ARGS)
	@# Floods take the machine for themselves. 5: none of them was chosen.
	.venv/bin/pytest tests/security/test_floods.py $(ARGS) || [ $$? = 5 ]

UNIT = .venv/bin/pytest --numprocesses 2 -m "not processes" tests/unit tests/observe/test_auditchain.py \
  tests/observe/test_feed.py tests/observe/test_stats.py tests/etcd/test_envelope.py tests/etcd/test_report.py

unit:
	$(UNIT) $(ARGS)

coverage:
	$(UNIT) --cov --cov-report=term:skip-covered $(ARGS)

bench: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.bench $(ARGS)

chaos: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.chaos.run $(ARGS)

kills: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.chaos.kills

soak: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.$(if $(filter renewal,$(ARGS)),enrol,chaos).soak

replicas: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.enrol.replicas

fuzz: install-dev
	@sh scripts/fuzz.sh $(ARGS)

screenshots: install-dev
	.venv/bin/python -m tests.tui.screenshots

dashboard: install-dev
	@sh scripts/test-tools.sh
	.venv/bin/python -m tests.observe.picture

# For developers: write generated files anew.
gen: install-dev
	@sh scripts/gen.sh

proto: install-dev
	@sh scripts/proto.sh

lock: install-dev
	@sh scripts/lock.sh

format: install-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The lock of what developers use has all that runs, too. --strict: what could not be looked up is not "no vulnerability".
vuln: install-dev
	.venv/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/dev.lock

audit: vuln

build: install-dev
	@sh scripts/build.sh

docs: install-dev
	@sh scripts/docs.sh

deb: install-dev
	@sh packaging/debian/build.sh

packages-test: install-dev
	.venv/bin/python -m tests.packages.run $(ARGS)

debug: install-dev
	@sh scripts/debug.sh $(ARGS)
