# The commands of the project. Everything happens in .venv and build/; nothing is installed into your Python.
#
#   make test     build, then run the C++ and the Python tests
#   make bench    print this machine's limits and how close matmul_t comes to them
#   make format   format the sources
#   make clean    remove what the others made
#
# PYTHON chooses the interpreter, TORCH_SPEC where PyTorch comes from (a requirement such as torch==2.13.0+cpu, or the
# path of a wheel), EXTRAS the extras to install, CMAKE_FLAGS what else CMake should know.

PYTHON ?= python3
TORCH_SPEC ?= torch
EXTRAS ?= test
CMAKE_FLAGS ?= -DTRANSFUSE_WERROR=OFF

VENV := .venv
BIN := $(VENV)/bin
comma := ,
PACKAGE := $(VENV)/package-$(subst $(comma),-,$(EXTRAS))
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find src include cmake python -type f -not -path '*/__pycache__/*' 2>/dev/null) CMakeLists.txt pyproject.toml

.PHONY: test test-cpp test-python bench format clean

test: test-cpp test-python

test-cpp: $(VENV)/tools
	@tools/require_googletest.sh
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset release $(CMAKE_FLAGS)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset release
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset release

test-python: $(PACKAGE)
	$(BIN)/python -m pytest

bench: $(PACKAGE)
	$(BIN)/python benchmarks/matmul_t_limits.py

format: $(VENV)/tools
	$(PIP) install --quiet -c constraints.txt clang-format ruff
	$(BIN)/ruff format python tests tools benchmarks
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format -i

clean:
	rm -rf $(VENV) build

$(VENV)/tools: constraints.txt tools/require_system.sh
	@tools/require_system.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt cmake ninja
	@touch $@

$(PACKAGE): $(VENV)/tools $(SOURCES)
	$(PIP) install --quiet -c constraints.txt "$(TORCH_SPEC)"
	$(PIP) install --quiet -c constraints.txt ".[$(EXTRAS)]"
	@touch $@
