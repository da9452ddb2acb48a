# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make train   sets up, trains the nano model, tells a story
#   make test    sets up, runs the tests
# Both make .venv by themselves when it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: train test lint assets clean

train: $(READY)
	@$(BIN)/python run_train.py --preset nano --resume

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .

# The bundled tokenizer and nano model. Takes about ten minutes.
assets: $(READY)
	$(BIN)/python -m picolm_lib.bundle

$(READY): pyproject.toml requirements.txt tests/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one, such as: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) (once; a few minutes, most of them PyTorch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --requirement requirements.txt --constraint tests/constraints.txt
	@touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
