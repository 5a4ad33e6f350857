# make demo   train a small transformer with torch's optimizer and with ours, and compare (examples/train_stdlib.py)
# make test   all tests
# make lint   all checks that run nothing
# make bench  time the kernels against torch and the memory limit (bench/)
# make bench-peers  the same against other libraries, which are installed into .venv-peers (bench/README.md)
# make audit-peers  audit other libraries' optimizers, installed as above; writes docs/audit_peers.md (bench/README.md)
# make hpu-check HABANA_INCLUDE=dir  check the HPU operators and the glue ABI against Habana's headers (dir or dirs)
# make tpc-asm TPC_CLANG=path  compile the TPC kernels with a TPC compiler and count the bundles of their loops
# make monitor-up  start Prometheus and Alertmanager with the rules of deploy/monitoring (docs/monitoring.md);
#   PROMETHEUS_PORT=9090 and ALERTMANAGER_PORT=9093 choose where; make monitor-down ends them
# make clean  remove what these made
#
# Each makes its .venv when it is missing and does again only what changed sources call for.

PYTHON ?= python3
# By exact name first: any later resolution is then satisfied, and no CUDA build is fetched.
TORCH ?= torch==2.13.0

venv := .venv
peers := .venv-peers
watcher := .venv-monitoring
python := $(venv)/bin/python
pip = $(@D)/bin/python -m pip --quiet --disable-pip-version-check
sources := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(shell find csrc python tpc_kernels -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint bench bench-peers audit-peers hpu-check tpc-asm monitor-up monitor-down clean
.DELETE_ON_ERROR:

demo: $(venv)/.extra-examples
	$(python) examples/train_stdlib.py

# Threads that wait leave their core to the other processes of the run.
test: $(venv)/.extra-bench,cli,examples,hpu,ops,report,tensorboard,test
	OMP_WAIT_POLICY=passive $(python) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(venv)/.extra-cli,examples,hpu,lint,ops,report
	$(venv)/bin/ruff check .
	$(venv)/bin/ruff format --check .
	$(venv)/bin/mypy
	$(venv)/bin/clang-format --dry-run --Werror $(shell find csrc tpc_kernels tests -name '*.h' -o -name '*.cpp')

bench: $(venv)/.extra-bench
	$(python) -m pytest bench

bench-peers: $(peers)/.extra-peers
	$(peers)/bin/python bench/peers.py

audit-peers: $(peers)/.extra-peers
	$(peers)/bin/python bench/audit_peers.py

# Nothing is linked and no kernel runs: it says that the sources agree with these headers and this torch.
HABANA_INCLUDE ?= /usr/include/habanalabs
CXX ?= g++
hpu-check: $(venv)/.torch
	$(CXX) -std=c++17 -Wall -Wextra -Werror -fsyntax-only $(addprefix -isystem,$(HABANA_INCLUDE)) \
	  $$($(python) -c 'import torch.utils.cpp_extension as e; print(*("-isystem" + p for p in e.include_paths()))') \
	  csrc/hpu/ops.cpp
	mkdir -p build
	$(CXX) -std=c++17 -Wall -Wextra -Werror $(addprefix -isystem,$(HABANA_INCLUDE)) tpc_kernels/glue/abi_check.cpp -o build/abi_check
	build/abi_check

# The table is kept in tpc_kernels/assembly.md.
TPC_CLANG ?= tpc-clang
tpc-asm: $(venv)/.package
	$(python) tpc_kernels/assembly.py $(TPC_CLANG)

PROMETHEUS_PORT ?= 9090
ALERTMANAGER_PORT ?= 9093
monitor-up: $(watcher)/.ready
	@$(watcher)/bin/python deploy/monitoring/stack.py up --prometheus-port $(PROMETHEUS_PORT) --alertmanager-port $(ALERTMANAGER_PORT)

monitor-down: $(watcher)/.ready
	@$(watcher)/bin/python deploy/monitoring/stack.py down

clean:
	rm -rf $(venv) $(peers) $(watcher) build .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks

$(venv)/.torch $(peers)/.torch:
	$(PYTHON) -m venv $(@D)
	$(pip) install "$(TORCH)"
	touch $@

$(venv)/.package $(peers)/.package: %/.package: %/.torch $(sources)
	$(pip) install --config-settings=cmake.define.GAUDI3_RT_WERROR=ON .
	touch $@

# A machine that only watches needs neither PyTorch nor a compiler.
$(watcher)/.ready:
	$(PYTHON) -m venv $(@D)
	$(pip) install "psutil>=6.0" "PyYAML>=6.0"
	touch $@

# The package is installed, so this fetches only what the extras add: one or several with commas, since each call of pip
# takes seconds.
$(venv)/.extra-%: $(venv)/.package pyproject.toml
	$(pip) install "gaudi3_rt[$*]"
	touch $@

# PyTorch once more, because a peer may ask for a library that would bring another version of it.
$(peers)/.extra-peers: $(peers)/.package pyproject.toml
	$(pip) install "gaudi3_rt[peers]" "$(TORCH)"
	touch $@
