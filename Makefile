# The commands of the project. Everything happens in .venv and build/; nothing is installed into your Python.
#
#   make demo       compare the kernels with NumPy, PyTorch and Numba on a few shapes, and draw a picture
#   make test       build, then run the C++ and the Python tests
#   make bench      print this machine's limits and how close matmul_t comes to them
#   make notebooks  execute the notebooks anew (about an hour)
#   make format     format the sources
#   make clean      remove what the others made
#
# PYTHON chooses the interpreter, TORCH_SPEC where PyTorch comes from (a requirement such as torch==2.13.0+cpu, or the
# path of a wheel; by default the PyTorch that PYTHON already has, else pip's choice), EXTRAS the extras that the tests
# install, CMAKE_FLAGS what else CMake should know.

PYTHON ?= python3
TORCH_SPEC ?=
EXTRAS ?= test
CMAKE_FLAGS ?= -DTRANSFUSE_WERROR=OFF

VENV := .venv
BIN := $(VENV)/bin
comma := ,
PACKAGE := $(VENV)/package-$(subst $(comma),-,$(EXTRAS))
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c $(VENV)/constraints.txt
SOURCES := $(shell find src include cmake python -type f -not -path '*/__pycache__/*' 2>/dev/null) CMakeLists.txt pyproject.toml

# One build folder for the library, its tests and the package, so that the kernels are compiled once.
INSTALL_PACKAGE := PATH="$(CURDIR)/$(BIN):$$PATH" $(INSTALL) --no-build-isolation -Cbuild-dir=build/release

.NOTPARALLEL:
.PHONY: demo test test-cpp test-python bench notebooks format clean

demo: $(VENV)/package-bench
	$(BIN)/transfuse demo

test: test-cpp test-python

test-cpp: $(VENV)/tools
	@tools/require_googletest.sh
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset release $(CMAKE_FLAGS)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset release
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset release

test-python: $(PACKAGE)
	$(BIN)/python -m pytest

bench: $(VENV)/package-bench
	$(BIN)/python benchmarks/matmul_t_limits.py

notebooks: $(VENV)/package-test-peers
	$(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=3600 notebooks

format: $(VENV)/tools
	$(INSTALL) clang-format ruff
	$(BIN)/ruff format .
	git ls-files '*.cpp' '*.hpp' | xargs $(BIN)/clang-format -i

clean:
	rm -rf $(VENV) build

$(VENV)/tools: constraints.txt tools/require_system.sh
	@tools/require_system.sh "$(PYTHON)"
	tools/create_venv.sh "$(PYTHON)" $(VENV) "$(TORCH_SPEC)"
	$(INSTALL) cmake ninja scikit-build-core pybind11 numpy
	@touch $@

$(VENV)/package-%: $(VENV)/tools $(SOURCES)
	$(INSTALL) "$(or $(TORCH_SPEC),torch)"
	$(INSTALL_PACKAGE) ".[$(subst -,$(comma),$*)]"
	@touch $@
