# make demo   sets everything up and shows the effect on real digits, in a table and a picture
# make test   sets everything up, checks the sources, and runs the tests for every engine
# make test-cuda  the operators and blocks on CUDA tensors; needs a GPU, and is no part of make test
# make check  formatters, linters, types
# make test-large  the operators on more than 2^31 elements: 12 GiB of free memory, three minutes
# make bench  benchmarks of the operators
# make valgrind  the module boundary under a memory checker; needs valgrind, takes many minutes
# make asan   the same with AddressSanitizer in the compiled code, built anew in build/asan; needs gcc
# make build  compiles the extension again, whatever the clock says
# make format formats all sources
# make clean  removes what was built; the virtual environment stays

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h')
OP_TESTS := tests/trgl_kernels/test_arguments.py \
	tests/trgl_kernels/test_half_residues.py \
	tests/trgl_kernels/test_residual_energy.py \
	tests/trgl_kernels/test_residual_energy_autograd.py \
	tests/trgl_kernels/test_residual_energy_recovery.py \
	tests/trgl_kernels/test_batch_norm_relu.py \
	tests/trgl_kernels/test_batch_norm_relu_autograd.py \
	tests/trgl_kernels/test_batch_norm_residual_energy.py \
	tests/trgl_kernels/test_batch_norm_residual_energy_autograd.py \
	tests/trgl_kernels/test_displacement_energy.py \
	tests/trgl_kernels/test_residual_energy_layer_norm.py \
	tests/trgl_kernels/test_residual_energy_layer_norm_autograd.py \
	tests/trgl_kernels/test_triton_engine.py \
	tests/trgl_kernels/test_triton_offsets.py \
	tests/trgl_kernels/test_triton_parts.py
CUDA_TESTS := $(OP_TESTS) \
	tests/trgl_kernels/test_collect.py \
	tests/trgl_kernels/test_collect_compiled.py \
	tests/trgl_kernels/test_cuda_graph.py \
	tests/trgl_kernels/test_recompute.py \
	tests/trgl_kernels/test_saved_bytes.py \
	tests/trgl_kernels/blocks
PYTEST := $(BIN)/python -m pytest
# side by side in processes of two threads each, which sleep while they wait for each other
WORKERS ?= 2
PYTESTS := OMP_WAIT_POLICY=PASSIVE $(PYTEST) -n $(WORKERS) --dist worksteal
# setuptools warns of editable installs that hide folders of the same name: here they are the package
INSTALL := PYTHONWARNINGS='ignore:Editable installation' $(BIN)/pip install --quiet

.PHONY: demo test test-cuda test-large check bench valgrind asan build format clean

demo: $(VENV)/built
	$(BIN)/trgl compare digits-20x1

test: check
	$(PYTESTS)
	TRGL_TEST_ENGINE=reference $(PYTESTS) tests/trgl_kernels
	TRITON_INTERPRET=1 TRGL_TEST_ENGINE=triton $(PYTESTS) $(OP_TESTS)

# an error, not skipped, where there is no GPU
test-cuda: $(VENV)/built $(VENV)/dev
	TRGL_TEST_ENGINE=cuda $(PYTESTS) $(CUDA_TESTS)

# skipped, and said so, where there is less memory
test-large: $(VENV)/built $(VENV)/dev
	TRGL_TEST_LARGE=1 $(PYTEST) tests/trgl_kernels/test_large_tensors.py

check: $(VENV)/built $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# large maps stay in the process: otherwise the figures are those of malloc
bench: $(VENV)/built $(VENV)/dev
	mkdir -p build
	MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=4294967296 $(PYTEST) benchmarks \
		--benchmark-json=build/benchmarks.json

# Reads and writes of memory that was given back. Left out: the tests that read it on purpose (poison,
# whose memory another library still points to), and those of other processes and of resident memory.
valgrind: $(VENV)/built $(VENV)/dev
	PYTHONMALLOC=malloc ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 valgrind --error-exitcode=9 \
		--undef-value-errors=no --leak-check=no --suppressions=tests/support/valgrind.supp \
		$(PYTEST) tests/trgl_kernels/boundary -k 'not poison and not process'

# Out-of-bounds and freed memory in csrc/. What torch itself reads is for valgrind to see; leaks are not
# looked for, a Python process has many. The copy keeps the library of other targets as it is.
ASAN_TESTS ?= tests/trgl_kernels/boundary -k 'not poison and not process and not grow'
asan: $(VENV)/built $(VENV)/dev
	mkdir -p build/asan
	cp -r csrc trgl trgl_kernels tests benchmarks trgl_command.py setup.py pyproject.toml README.md LICENSE build/asan
	cd build/asan && CXX=g++ CFLAGS='-fsanitize=address -fno-omit-frame-pointer' \
		LDFLAGS=-fsanitize=address $(abspath $(BIN))/python setup.py -q build_ext --inplace
	cd build/asan && LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 PYTHONPATH=. \
		$(abspath $(BIN))/python -m pytest $(ASAN_TESTS)

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP)

build:
	rm -f $(VENV)/built
	$(MAKE) $(VENV)/built

clean:
	rm -rf build dist *.egg-info trgl_kernels/_C.so trgl_kernels/_C.json $(VENV)/built
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# editable: Python sources are used where they are, and the stamp is older than any change in what is compiled
$(VENV)/built: $(VENV)/torch pyproject.toml setup.py $(CPP) $(wildcard trgl_kernels/schema/*.py)
	@echo 'Installing trgl and compiling its extension'
	$(INSTALL) --no-build-isolation --editable .
	@$(BIN)/python -c 'from trgl_kernels.extension import notice; print(notice() or "Compiled engine: ready")'
	@touch $@

$(VENV)/dev: $(VENV)/built pyproject.toml
	@echo 'Installing the tools of development'
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

# what building needs; torch first, because the extension is compiled against it
$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		f"trgl needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Name another: make PYTHON=python3.12")'
	@echo 'Creating $(VENV) and installing torch (gigabytes, minutes)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip 'setuptools>=77' ninja numpy 'torch>=2.11'
	@touch $@
