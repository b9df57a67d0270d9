# SPDX-License-Identifier: GPL-2.0-or-later
# Every target sets up what it needs; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CONFIG := etc/ddtb6.dev.toml
READY := .venv/.installed
DEB_VERSION = $(shell sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
export PATH := $(PATH):/usr/sbin:/sbin

# command=package. The broker itself starts nothing but nft, and that only where it is present.
RUN_PACKAGES := nft=nftables
DEMO_PACKAGES := $(RUN_PACKAGES) ip=iproute2 nsenter=util-linux
TEST_PACKAGES := $(DEMO_PACKAGES) iptables=iptables gsasl=gsasl \
  freeradius=freeradius radclient=freeradius-utils \
  mmdebstrap=mmdebstrap lintian=lintian dpkg-buildpackage=dpkg-dev setpriv=util-linux \
  netplan=netplan.io radvd=radvd systemd-analyze=systemd curl=curl
BROWSER_PACKAGES := chromium=chromium chromedriver=chromium-driver npm=npm
VM_PACKAGES := qemu-system-x86_64=qemu-system-x86 busybox=busybox-static depmod=kmod gcc=build-essential \
  make=build-essential sparse=sparse ip=iproute2 nsenter=util-linux ethtool=ethtool
VM_KERNEL ?= cloud
VM_KERNELS ?= cloud 6.12-cloud
export DDTB6_VM_KERNELS = $(VM_KERNELS)

# Install the packages in $missing; without root or apt, name them and go on.
define install
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "setup: installing Debian packages:$$missing"; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
  else \
    echo "setup: going on without these packages, which only root can install:$$missing"; \
  fi; \
fi
endef

# $(call packages,LIST): install those of LIST whose command is missing.
define packages
missing=""; \
for item in $(1); do command -v "$${item%%=*}" >/dev/null || missing="$$missing $${item#*=}"; done; \
$(install)
endef

# $(call vm_headers,KERNEL...): install the headers of the kernels that virtual machines here boot (tests/support/vm.py).
define vm_headers
missing=""; \
for name in $(1); do \
  version="$$($(BIN)/python tests/support/vm.py --kernel $$name --print-version)" || continue; \
  [ -d /usr/src/linux-headers-$$version ] || missing="$$missing linux-headers-$$version"; \
done; \
$(install)
endef

# What judges whether pages can be used by everybody; for tests only. Without npm or the network, say so and go on.
define axe
if ! cmp -s tests/browser/package-lock.json build/browser/package-lock.json || [ ! -d build/browser/node_modules ]; then \
  mkdir -p build/browser && rm -f build/browser/package-lock.json && cp tests/browser/package.json build/browser/ \
  && cp tests/browser/package-lock.json build/browser/package-lock.json && npm ci --silent --prefix build/browser \
  || { rm -f build/browser/package-lock.json; echo "test: going on without axe-core, which npm could not install"; }; \
fi
endef

.PHONY: help setup run test check browser demo bench docs deb clean static vm vm-debug bench-vm

help:  ## list the targets
	@echo "ddtb6, an IPv6 tunnel broker in a box"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

setup: $(READY)  ## make the virtual environment .venv, with ddtb6 and twistd in .venv/bin
	@echo "setup: .venv is ready; next: $(BIN)/ddtb6 --help"

run: $(READY)  ## run the broker in the foreground with the development configuration (needs root)
	@if [ "$$(id -u)" != 0 ]; then echo "run: the broker makes a network device, which needs root: sudo make run"; exit 1; fi
	@$(call packages,$(RUN_PACKAGES))
	@mkdir -p run && chmod 700 run
	@$(BIN)/ddtb6 --config $(CONFIG) user show demo >/dev/null 2>&1 \
	  || { echo "run: adding the account demo with the password demo"; \
	       echo demo | $(BIN)/ddtb6 --config $(CONFIG) user add demo --password-stdin; }
	@echo "run: starting the broker with $(CONFIG); Ctrl-C ends it"
	@echo "run: the account is demo, the password demo; a client on another machine logs in with"
	@echo "run:   ddtb6 connect --server ADDRESS-OF-THIS-MACHINE --user demo --prefix-length 56"
	@echo "run: here, in another terminal: $(BIN)/ddtb6 --config $(CONFIG) status   (or http://127.0.0.1:8653/)"
	@exec $(BIN)/twistd -n --pidfile= ddtb6 --config $(CONFIG)

test: static  ## lint, types, layering and every test
	@$(call packages,$(TEST_PACKAGES) $(VM_PACKAGES) $(BROWSER_PACKAGES))
	@$(call vm_headers,$(VM_KERNELS))
	@$(axe)
	@echo "test: every test$${DDTB6_REQUIRE:+, with $$DDTB6_REQUIRE required}"
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: static  ## lint, types, layering and the fast tests (under 30 s)
	@echo "check: unit and property tests, and transcripts"
	@HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest -n 2 -m 'not slow' $(wildcard tests/unit tests/property tests/transcripts)

static: $(READY)
	@echo "static: lint, format, types, layering"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

browser: $(READY)  ## the tests that drive a Chromium (needs root); pictures of the pages are left in build/browser/screenshots
	@$(call packages,$(DEMO_PACKAGES) $(BROWSER_PACKAGES))
	@$(axe)
	@DDTB6_REQUIRE=browser $(BIN)/python -m pytest tests/browser

demo: $(READY)  ## a client behind a NAT logs in, pings and transfers, in network namespaces on this machine (needs root)
	@$(call packages,$(DEMO_PACKAGES))
	@$(BIN)/python tests/demo.py

bench: $(READY)  ## measure log-ins per second, memory, start-up and throughput, and print a table
	@$(call packages,$(DEMO_PACKAGES))
	@$(BIN)/python -m bench

vm: $(READY)  ## a shell in a virtual machine, a stock Debian kernel with the module utun loaded (VM_KERNEL=6.12-cloud)
	@$(call packages,$(VM_PACKAGES))
	@$(call vm_headers,$(VM_KERNEL))
	@$(BIN)/python tests/support/vm.py --kernel $(VM_KERNEL) --utun --shell

vm-debug: $(READY)  ## the tests of utun on a kernel with KASAN, lockdep and kmemleak (needs root; builds it once, ten minutes)
	@$(call packages,ip=iproute2 ethtool=ethtool)
	@DDTB6_REQUIRE=netns tests/support/vm_uml --debug $(BIN)/python -B -m pytest -p no:cacheprovider -s tests/vm/guest

bench-vm: $(READY)  ## measure utun beside the kernel's own tunnel, in User Mode Linux and on a stock kernel (needs root)
	@$(call packages,$(VM_PACKAGES))
	@$(call vm_headers,$(VM_KERNEL))
	@DDTB6_VM_LIMIT=1800 tests/support/vm_uml $(BIN)/python -B -m bench.kernel
	@$(BIN)/python tests/support/vm.py --kernel $(VM_KERNEL) --utun --check-log --time-limit 1800 \
	  $(BIN)/python -B -m bench.kernel --packets 50000

docs: $(READY)  ## write what is drawn from the source: manual pages, etc/ddtb6.toml, the diagram of docs/negotiation.md
	@$(BIN)/python -c 'import pathlib, re; from ddtb6.tsp.states import diagram; \
	  page = pathlib.Path("docs/negotiation.md"); old = page.read_text(); \
	  page.write_text(re.sub(r"(?s)(?<=```mermaid\n).*?(?=```)", lambda _: diagram(), old))'
	@$(BIN)/python docs/man.py
	@$(BIN)/python docs/completion.py
	@$(BIN)/python -c 'from ddtb6.config.sample import sample; print(sample(), end="")' >etc/ddtb6.toml
	@echo "docs: docs/negotiation.md is drawn from ddtb6/tsp/states.py, docs/man/ is written by docs/man.py,"
	@echo "docs: and etc/ddtb6.toml by ddtb6/config/sample.py"

deb:  ## build the Debian packages ddtb6 and utun-dkms into dist/
	@if [ "$$(id -u)" != 0 ] && ! dpkg-checkbuilddeps 2>/dev/null; then \
	  echo "deb: the build takes packages that only root can install; next: sudo make deb, or"; \
	  echo "deb:   sudo apt-get install -y dpkg-dev && sudo apt-get build-dep -y $(CURDIR) && make deb"; exit 1; \
	fi
	@$(call packages,dpkg-buildpackage=dpkg-dev)
	@if ! dpkg-checkbuilddeps 2>/dev/null; then \
	  echo "deb: installing what the build takes"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get build-dep -y -qq --no-install-recommends "$(CURDIR)" >/dev/null; \
	fi
	@rm -rf build/deb && mkdir -p build/deb/ddtb6 dist
	@tar -c --anchored $(addprefix --exclude=./,.git .venv build dist run .?*_cache .hypothesis) \
	  --no-anchored --exclude=__pycache__ --exclude='*.egg-info' --exclude=kmod/utun/build --exclude=dropin.cache . \
	  | tar -x -C build/deb/ddtb6
	@cd build/deb/ddtb6 && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage --unsigned-source --unsigned-changes >../log 2>&1 \
	  || { tail -n 30 ../log; echo "deb: the build failed; all of its output is in build/deb/log"; exit 1; }
	@find build/deb -maxdepth 1 -type f ! -name log -exec mv -t dist {} +
	@echo "deb: built; next: sudo apt install$(foreach each,ddtb6 utun-dkms, ./dist/$(each)_$(DEB_VERSION)_all.deb)"

clean:  ## remove the virtual environment, caches, built files and the development state
	@echo "clean: removing .venv, caches, build/, dist/, run/"
	@rm -rf .venv build dist run *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "setup: $(PYTHON) must be Python 3.11 or later; name another with PYTHON=..."; exit 1; }
	@missing=""; $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing=" python3-venv"; $(install)
	@echo "setup: making the virtual environment .venv"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) -e '.[dev]'
	@$(PIP) -e '.[iptables]' 2>/dev/null \
	  || echo "setup: python-iptables could not be built, which takes gcc and python3-dev; the firewall will use nft"
	@touch $@
