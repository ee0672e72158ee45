# `make help` lists the commands. Everything they need is set up by them; see testkit/setup.sh.
SHELL := /bin/bash
.DEFAULT_GOAL := help
LAB ?= demo
TARGET := $(or $(CARGO_TARGET_DIR),target)
TESTKIT := $(TARGET)/x86_64-unknown-linux-gnu/debug/testkit

.PHONY: help
help: ## Lists these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## From one resource to delivered messages, in a lab that is left running
	@testkit/run.sh demo $(LAB)

.PHONY: test
test: ## All tests: format, lints, unit tests, and the demo's steps in a lab of their own
	@testkit/run.sh test

.PHONY: bench
bench: ## The edge's data path beside Prosody and ejabberd: one table (10 minutes, most of it the build)
	@testkit/run.sh bench

ARGS ?=
.PHONY: bench-operator
bench-operator: ## The operator with 1,000 resources, beside cert-manager: one table (40 minutes); see docs/benchmarks.md
	@testkit/run.sh bench-operator $(ARGS)

MINUTES ?= 20
.PHONY: fuzz
fuzz: ## Every fuzz target for MINUTES minutes each (20 if not given); see fuzz/README.md
	@fuzz/run.sh $(MINUTES)

.PHONY: shell
shell: ## A shell in the running lab, with kubectl
	@[ -x $(TESTKIT) ] || { echo "there is no lab: run make demo first" >&2; exit 1; }
	@$(TESTKIT) lab shell --name $(LAB)

.PHONY: clean-lab
clean-lab: ## Removes every lab of this checkout and what it left on the machine
	@testkit/run.sh clean-lab

.PHONY: setup
setup: ## Debian packages and tools only
	@testkit/setup.sh kube pause helm policy-agent

.PHONY: lint
lint: ## Format and lints only
	@testkit/run.sh lint

.PHONY: audit
audit: ## Licences, sources and bans of all dependencies (cargo-deny)
	@testkit/run.sh audit
