# Needs only Python 3.11+, make and a package registry. `make` alone lists the targets.
# ARGS is handed on: make test ARGS="tests/wire -x", make serve ARGS="--port 9000".
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
LOCKS := pyproject.toml requirements-build.lock
ROUNDS ?= 5
QUICK ?=

export PYTHON VENV

.PHONY: help serve test soak check bench fmt lock

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

serve: $(VENV)/.runtime ## install what is missing, start the gateway on 127.0.0.1:8000
	@exec $(BIN)/gatewayz serve $(ARGS)

test: $(VENV)/.test ## install what tests need, run the whole suite
	@scripts/test $(ARGS)

soak: $(VENV)/.test ## the long forms of the chaos and soak tests (a quarter of an hour)
	@scripts/test -m slow $(ARGS)

check: $(VENV)/.check ## ruff, mypy --strict, import directions, versions
	@scripts/check

bench: $(VENV)/.runtime ## side by side with nginx, sglang-router and LiteLLM (ROUNDS=5, QUICK=1 for a look)
	@exec $(BIN)/python -m bench.run --rounds $(ROUNDS) $(if $(QUICK),--quick) $(ARGS)

fmt: $(VENV)/.check ## format and sort
	@scripts/fmt

lock: $(VENV)/.runtime ## bring the lock files up to date with pyproject.toml
	@scripts/lock $(ARGS)

$(VENV)/.runtime: requirements.lock $(LOCKS)
	@scripts/install runtime requirements.lock

$(VENV)/.test: requirements-test.lock $(LOCKS)
	@scripts/install test requirements-test.lock

$(VENV)/.check: requirements-check.lock $(LOCKS)
	@scripts/install check requirements-check.lock
