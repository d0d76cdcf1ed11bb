# `make demo` and `make test` each set everything up by themselves, in .venv.
# constraints.txt holds the versions that were tested; CONSTRAINTS= (empty) takes the newest of everything.
PYTHON ?= python3
PYTHON_NEWEST ?= python3.13
PYTHON_LOWEST ?= python3.10
TORCH ?= torch torchvision
CONSTRAINTS ?= constraints.txt
UPGRADE ?=
PYTEST ?=
IMAGES ?=
FUZZ ?=
MUTATE ?=
SMOKE ?=
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
CORE := CMakeLists.txt pyproject.toml $(CONSTRAINTS) $(shell find csrc cmake -type f)
INSTALL = $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Two threads on networks as small as the tests' take twice the processor time of one.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# A process of pytest takes up to 2 GiB; PROCESSES=0: all tests in one.
PROCESSES ?= auto
IN_PROCESSES = -n $(PROCESSES) --maxprocesses 4 --dist worksteal
BUILD_CONSTRAINT := $(if $(CONSTRAINTS),--build-constraint $(CONSTRAINTS))

.PHONY: help setup demo test test-fast wheel-test test-newest test-lowest test-aarch64 coverage mutate fuzz papers-smoke lock sanitize lint fmt bench wheel clean

help:
	@echo "make demo    build the starter bundle's engines and screen synthetic X-rays (IMAGES=folder: yours)"
	@echo "make test    run the tests            make lint    ruff, mypy, clang-format, stub, words"
	@echo "make test-fast    the quick ones      make wheel-test    build the wheel, install it elsewhere, screen with it"
	@echo "make bench   measure against peers    make fmt     format    make wheel    build a wheel"
	@echo "make coverage    the tests with coverage by branch: a table by package, and build/coverage/html"
	@echo "make mutate      change the code, one place at a time: some test must fail (MUTATE=names; an hour and more)"
	@echo "make fuzz    mutate files for the header parsers and decoders (FUZZ=arguments)"
	@echo "make papers-smoke   both papers' full-size recipes for a few steps each, on drawn X-rays (half an hour on two cores)"
	@echo "make lock    write constraints.txt again (UPGRADE=--upgrade: newest versions)"
	@echo "make test-newest    the tests on the newest of all dependencies, PYTHON_NEWEST=$(PYTHON_NEWEST)"
	@echo "make test-lowest    the runtime's tests on its lowest allowed ones, PYTHON_LOWEST=$(PYTHON_LOWEST)"
	@echo "make test-aarch64   the native core cross-compiled for Arm, its golden tests under qemu-user"

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	touch $@

# The runtime alone: what a device needs.
$(VENV)/.runtime: $(VENV)/.made $(CORE)
	$(INSTALL) $(BUILD_CONSTRAINT) --editable .
	touch $@

# Training, tests and linters besides; the core is compiled once, here or for the runtime. torch and torchvision together, so
# that they fit each other (timm needs both); TORCH chooses an index with builds for a machine without CUDA, which are smaller,
# or, with CONSTRAINTS=, versions.
$(VENV)/.dev: $(VENV)/.made $(CORE)
	$(INSTALL) $(TORCH)
	$(INSTALL) $(BUILD_CONSTRAINT) --editable '.[train,dev]'
	touch $(VENV)/.runtime $@

# NVIDIA's own Python bindings of TensorRT, without the library: what tests/backends/test_tensorrt_api_only.py reads, and skips
# without. Only some machines have wheels of them; what could not be installed is tried again the next time.
BINDINGS := 10.3/tensorrt-cu12-bindings==10.3.0 10.16/tensorrt-cu13-bindings==10.16.1.11 11.4/tensorrt-cu13-bindings==11.4.0.106
$(VENV)/.bindings: $(VENV)/.dev
	@failed=; test "$$(uname -sm)" != "Linux x86_64" || for pin in $(BINDINGS); do folder=$(VENV)/tensorrt/$${pin%%/*}; test -d $$folder || \
	  $(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --target $$folder $${pin##*/} || \
	  { rm -rf $$folder; echo "No bindings of TensorRT $${pin%%/*} here: their tests will skip."; failed=yes; }; \
	done; test -n "$$failed" || touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) $(BUILD_CONSTRAINT) --editable '.[bench]'
	touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.runtime
	$(BIN)/cxr-edge build-engine starter
	$(if $(IMAGES),,$(INSTALL) pydicom-data)
	$(if $(IMAGES),,$(BIN)/python -m training.phantoms $(DEMO)/images --radiographs)
	$(BIN)/cxr-edge screen $(or $(IMAGES),$(DEMO)/images) --html $(DEMO)/report.html \
	  $(if $(IMAGES),,--note "chest and leg are real radiographs (pydicom-data), in several transfer syntaxes; the other pictures are drawn by a program and refused.")
	$(BIN)/cxr-edge bench

# Without the tests that train, start many processes or measure (tests/conftest.py lists them).
test-fast: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest --fast $(IN_PROCESSES)

test: $(VENV)/.dev $(VENV)/.bindings
	$(ONE_THREAD) $(BIN)/python -m pytest $(IN_PROCESSES) $(PYTEST)

# The whole suite on the newest of everything that pyproject.toml allows.
test-newest:
	$(MAKE) test VENV=build/newest PYTHON=$(PYTHON_NEWEST) CONSTRAINTS= PYTEST="-W default"

# The runtime's tests on the lowest version of each of its dependencies, without torch: what tests training is left out.
test-lowest:
	$(MAKE) build/lowest/.lowest VENV=build/lowest PYTHON=$(PYTHON_LOWEST)
	$(ONE_THREAD) build/lowest/bin/python -m pytest tests $(IN_PROCESSES) -W default --ignore=tests/training --ignore=tests/journey --ignore=tests/benchmarks

$(VENV)/.lowest: $(VENV)/.made $(CORE)
	$(INSTALL) uv
	$(BIN)/uv pip compile --quiet --upgrade --python $(BIN)/python --resolution lowest-direct --no-annotate pyproject.toml --output-file $(VENV)/lowest.txt
	$(BIN)/python -m pip install --quiet $(BUILD_CONSTRAINT) --constraint $(VENV)/lowest.txt --editable '.[dev]'
	touch $@

# The interpreter counts in Python only: csrc's tests are measured by `make mutate`.
coverage: $(VENV)/.dev
	rm -rf build/coverage && mkdir -p build/coverage
	$(ONE_THREAD) $(BIN)/python -m coverage run -m pytest $(PYTEST)
	$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage html --quiet && $(BIN)/python -m coverage json --quiet
	$(BIN)/python -m tests.coverage_table build/coverage/report.json

mutate: $(VENV)/.dev
	$(INSTALL) mutmut
	$(ONE_THREAD) $(BIN)/python -m tests.mutate $(MUTATE)

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Goes on where it was stopped; when it has come to its end, the next one starts anew.
papers-smoke: $(VENV)/.dev
	$(BIN)/python -m training.papers_smoke $(SMOKE)

# Versions stay as they are where pyproject.toml allows them; UPGRADE=--upgrade takes the newest. What holds of every machine that
# cxr-edge is for (CPython on Linux) is cut from the markers.
lock: $(VENV)/.made
	$(INSTALL) uv
	UV_PYTHON_DOWNLOADS=never UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet $(UPGRADE) --python $(BIN)/python --universal --python-version 3.10 \
	  --no-annotate --extra train --extra dev --extra bench --extra sign --group tools pyproject.toml --output-file constraints.txt
	sed -i -E "s/ (and )?(python_full_version < '3.15'|(implementation_name|platform_python_implementation) [!=]= '\w+'|sys_platform == 'linux')//g; \
	  s/; and/;/; s/ ;$$//" constraints.txt

# The golden tests on a core built with the address and undefined-behaviour sanitizers. -S: without the editable install,
# which would put the ordinary core before it.
sanitize: $(VENV)/.dev
	cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCXR_EDGE_SANITIZE=ON -DCXR_EDGE_CUDA=OFF \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	cmake --build build/sanitize --parallel $$(nproc)
	rm -rf build/sanitize/tree && mkdir build/sanitize/tree && cp -r cxr_edge tests build/sanitize/tree/
	rm -f build/sanitize/tree/cxr_edge/_core*.so && cp build/sanitize/_core*.so build/sanitize/tree/cxr_edge/
	cd build/sanitize/tree && ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  PYTHONPATH=.:$$($(CURDIR)/$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
	  $(CURDIR)/$(BIN)/python -S -m pytest -p no:cacheprovider tests/ops

# The golden tests on a core cross-compiled for aarch64, under qemu-user. It sets up what it needs in build/aarch64.
test-aarch64:
	PYTHON=$(PYTHON) tests/aarch64/run.sh

# The stub of the native module is compared with the module; pybind11's metaclass is no part of a stub.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist csrc/stubtest-allowlist.txt --ignore-unused-allowlist cxr_edge._core
	$(BIN)/python -m tests.words
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cc' 'csrc/*.h' 'csrc/*.cu')

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cc' 'csrc/*.h' 'csrc/*.cu')

# Peers that cannot be imported (torchvision beside a CPU-only torch, say) stay in the tables, with the reason.
bench: $(VENV)/.bench
	$(BIN)/cxr-edge build-engine starter
	$(BIN)/python -m benchmarks --page build/bench/benchmarks.md

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet $(BUILD_CONSTRAINT) --no-deps --wheel-dir dist .

# The wheel in an environment of its own, away from the checkout: its starter bundle is built and screens a drawn image.
wheel-test: $(VENV)/.dev
	rm -rf build/wheel && $(BIN)/python -m pip wheel --quiet $(BUILD_CONSTRAINT) --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) build/wheel/*.whl
	$(BIN)/python -m training.phantoms build/wheel/images
	cd build/wheel && venv/bin/cxr-edge build-engine starter --engines engines && venv/bin/cxr-edge screen images --engines engines

clean:
	rm -rf build dist $(VENV)
