# Every target sets itself up: it makes .venv on the first call and installs again only when a requirements file changed.
#   make demo       the whole pipeline on real digits, offline, about 6 minutes on two cores
#   make compare    all pruning methods side by side on the same digits, with a report; goes on where it was stopped
#   make docs       the documentation as web pages in build/docs
#   make test       the fast tests             make test-all   with the slow ones
#   make test-arm   the exported files on emulated 64-bit ARM (Debian or Ubuntu on x86-64; the first call downloads)
#   make lint       ruff and mypy              make clean      removes .venv and caches, never a run
# Another Python: make demo PYTHON=/path/to/python3.12          More pytest options: make test ARGS="-k masks -x"
.PHONY: demo compare docs test test-all test-arm lint clean

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 2

export TF_CPP_MIN_LOG_LEVEL ?= 2
# TensorFlow turns these kernels on by itself only on processors with AVX-512; others are faster with them, too.
export TF_ENABLE_ONEDNN_OPTS ?= 1

demo: $(VENV)/run.stamp
	$(BIN)/python -m harp_tf.train --flagfile=flags/quickstart.flags --run_dir=runs/quickstart --restart

compare: $(VENV)/run.stamp
	$(BIN)/python -m harp_tf.compare --flagfile=flags/compare_digits.flags $(ARGS)

docs: $(VENV)/dev.stamp
	$(BIN)/python tools/write_pages.py --output=build/docs

# Two processes: most tests keep one core busy. A process takes 2 to 3 GB.
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-all: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "" $(ARGS)

test-arm: $(VENV)/dev.stamp
	HARP_AARCH64=$${HARP_AARCH64:-$(CURDIR)/build/aarch64} $(BIN)/python -m pytest tests/deploy/test_aarch64.py \
	    tests/deploy/test_arm_sparse.py tests/deploy/test_arm_rewrite.py $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find harp_tf tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
	    echo "harp_tf needs Python 3.11 or 3.12; found neither python3.11, python3.12 nor such a python3." \
	         "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	"$$python" -c '$(SUPPORTED)' || { \
	    echo "harp_tf needs Python 3.11 or 3.12; $$python is $$("$$python" -V 2>&1)." >&2; exit 1; }; \
	echo "Making $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV) || { \
	    echo "$$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/run.stamp: requirements.txt $(VENV)/python.stamp
	@echo "Installing requirements.txt into $(VENV): TensorFlow and friends, about 2 GB on disk, a few minutes"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@touch $@
