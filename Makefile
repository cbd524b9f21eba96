# The front door. `make demo` shows the main job, `make test` tries everything.
#   make demo [HOLD=1]   two sites in network namespaces, real traffic, a wire audit
#   make test            every tier this machine can run; says which it could not and why
#   make check           the quick loop: lint, types, unit tests, C tests under ASan and UBSan
#   make tsan            the C tests under ThreadSanitizer
#   make qemu            kernel TLS on Debian's 6.12 kernel, and two sites there, emulated
#   make qemu T=two_sites   those alone, their links in the kernel and on a card
#   make fuzz T=link     mutate one parser's input (needs clang)
#   make bench [S=l4-plain] [ROUNDS=n] [ARGS=…]   against haproxy, nginx, Envoy; see perf/README.md
#   make fix             format and fix what tools can
#   make install         onto this Debian machine; `make uninstall` takes it all back

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := firmware-config/debian/install-packages
PROTOS := $(wildcard appliance/api/*.proto appliance/ca/*.proto dataplane/*.proto)
NATIVE := setup.py native/build.py native/include/dp.h $(wildcard native/src/*.c native/src/*.h)
STAMPS := build/stamps
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all setup gen stubs demo test check check-python check-native tsan qemu fuzz bench fix install uninstall clean
all: setup

setup: $(STAMPS)/native

$(STAMPS)/packages: $(wildcard firmware-config/debian/*)
	@$(PACKAGES) run build test
	@mkdir -p $(@D) && touch $@

# pyproject.toml is the only list of Python packages; the build tools come first because the
# extension is built without isolation, by what is in the environment.
$(STAMPS)/python: pyproject.toml $(STAMPS)/packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		'setuptools>=68' wheel 'cffi>=1.16' 'grpcio-tools>=1.60'
	@mkdir -p $(@D) && touch $@

$(STAMPS)/gen: $(PROTOS) $(STAMPS)/python
	@$(MAKE) --no-print-directory stubs
	@touch $@

# The stubs alone, made by the environment BIN: firmware-config/install has one of its own.
stubs:
	@for proto in $(PROTOS); do \
		dir=$$(dirname $$proto); mkdir -p $$dir/_gen; : > $$dir/_gen/__init__.py; \
		$(BIN)/python -m grpc_tools.protoc --proto_path=$$dir/_gen=$$dir \
			--python_out=. --grpc_python_out=. --pyi_out=. $$dir/_gen/$$(basename $$proto) || exit 1; \
	done

gen: $(STAMPS)/gen

$(STAMPS)/native: $(NATIVE) $(STAMPS)/gen
	@echo "building the data plane"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --editable '.[dev]'
	@touch $@

demo: setup
	@$(SUDO) $(CURDIR)/$(BIN)/python -m appliance.demo $(if $(HOLD),--hold)

test: setup $(STAMPS)/qemu
	@$(BIN)/python -m tests.tiers

# Side by side: a quick loop must stay quick.
check: setup
	@$(MAKE) --no-print-directory -j2 --output-sync check-python check-native

check-python:
	@PYTEST_ADDOPTS="-n 3" $(BIN)/python -m tests.tiers tidy unit

check-native:
	@$(BIN)/python -m tests.tiers native

tsan: setup
	@$(MAKE) --no-print-directory -C native test SAN=thread

qemu: setup $(STAMPS)/qemu
	@T=$(T) CASE=$(CASE) $(BIN)/python -m tests.qemu

$(STAMPS)/qemu: firmware-config/debian/qemu.packages
	@$(PACKAGES) qemu
	@mkdir -p $(@D) && touch $@

fuzz: setup
	@$(MAKE) --no-print-directory -C native fuzz T=$(T) SECONDS=$(or $(SECONDS),60)

$(STAMPS)/bench: firmware-config/debian/bench.packages perf/requirements.txt $(STAMPS)/native
	@$(PACKAGES) bench
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r perf/requirements.txt
	@touch $@

# The guest's kernel is fetched before, for the bench's own namespace reaches no network. Where that
# fails, all other scenarios run, and offload says what it lacks.
bench: setup $(STAMPS)/bench $(STAMPS)/qemu
	@$(MAKE) --no-print-directory -C perf
	-@$(if $(filter-out offload all,$(S)),,$(BIN)/python -m tests.qemu prepare)
	@$(SUDO) $(CURDIR)/$(BIN)/python -m perf.run $(S) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

fix: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

install:
	@$(SUDO) firmware-config/install install

uninstall:
	@$(SUDO) PURGE=$(PURGE) firmware-config/install uninstall

clean:
	rm -rf build native/build $(VENV) *.egg-info dataplane/_native*.so
	find . -name _gen -type d -prune -exec rm -rf {} +
