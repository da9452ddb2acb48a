# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make train   sets up, trains the nano model, writes a story
#   make test    sets up, runs the tests and every notebook
# Both make .venv by themselves when it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COLAB := .venv-colab
COLAB_READY := $(COLAB)/.ready
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready
LM_EVAL := .venv-lm-eval
LM_EVAL_READY := $(LM_EVAL)/.ready

.PHONY: train test test-browser test-faults test-solved \
  test-lowest test-colab test-lm-eval test-gpu test-gpu-parts unit notebook-tests lint types \
  notebooks course slug assets tokenizer clean

train: $(READY)
	@$(BIN)/python run_train.py --preset nano --resume

test: lint types unit notebook-tests

# Of `make test-lowest`: its CPU build is at hand wherever tests/constraints.txt can be installed.
TORCH ?= torch==2.13.0

# Two processes, each with one thread: for tensors this small, threads only wait for each other.
TWO := --numprocesses 2 --dist loadfile
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO)
NOTEBOOKS := --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks/*.ipynb

unit: $(READY)
	$(PYTEST)

# Offline, so that the outcome does not depend on the Hub.
notebook-tests: $(READY)
	PICOLM_PRESET=smoke HF_HUB_OFFLINE=1 $(PYTEST) $(NOTEBOOKS)

# Every notebook with all of its exercises solved.
test-solved: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 tests/notebooks/solved

# Sliders in JupyterLab and a headless browser; its screenshots are in build/browser.
test-browser: $(READY)
	$(BIN)/python -m pytest tests/browser

# Runs of the real command that are killed, stopped, or out of disk space at any moment.
test-faults: $(READY)
	$(PYTEST) tests/faults

# The unit tests on the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST_READY)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(TWO)

# What a GPU must show, with that Python as it is: no virtual environment, no network.
# make test-gpu PYTHON=python3 PARTS="model resume"
test-gpu:
	@$(PYTHON) tests/gpu/run.py $(PARTS)

# The parts of test-gpu, and the notebooks, on a pretended GPU; and that each part can fail.
test-gpu-parts: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 tests/gpu/parts

# What Colab has, the package on top as the set-up cell installs it, and all tests on these. `pytest`
# and not `python -m pytest`, which would take the package from this folder.
COLAB_PYTEST := OMP_NUM_THREADS=1 $(COLAB)/bin/pytest $(TWO)

test-colab: $(COLAB_READY)
	$(COLAB)/bin/python tests/colab/colab_environment.py
	PICOLM_PRESET=smoke HF_HUB_OFFLINE=1 $(COLAB_PYTEST) $(NOTEBOOKS)
	$(COLAB_PYTEST)

# lm_eval scores the exported model, offline and without picolm_lib, and must agree with picolm_lib.
# In tasks of perplexity it puts the end of text before each text itself, hence the two runs.
LM_EVAL_RUN := HF_HUB_OFFLINE=1 HF_HOME=build/lm_eval/hf PYTHONPATH= OMP_NUM_THREADS=1 \
  LMEVAL_LOG_LEVEL=ERROR $(LM_EVAL)/bin/lm_eval --model hf --device cpu --batch_size 8 \
  --include_path tests/lm_eval --output_path build/lm_eval --log_samples

test-lm-eval: $(READY) $(LM_EVAL_READY)
	@! $(LM_EVAL)/bin/python -Ic "import picolm_lib" 2>/dev/null || \
	  { echo "error: picolm_lib is installed in $(LM_EVAL); remove that folder."; exit 2; }
	rm -rf build/lm_eval
	$(BIN)/python tests/lm_eval/data.py
	$(BIN)/python inference.py export --out build/lm_eval/model
	$(LM_EVAL_RUN) --tasks storybook_facts \
	  --model_args pretrained=build/lm_eval/model,trust_remote_code=True,add_bos_token=True
	$(LM_EVAL_RUN) --tasks storybook_stories \
	  --model_args pretrained=build/lm_eval/model,trust_remote_code=True,add_bos_token=False
	OMP_NUM_THREADS=1 $(BIN)/python tests/lm_eval/check.py

# The notebooks from notebooks/src, executed, with their outputs.
notebooks: $(READY)
	$(BIN)/python notebooks/build.py

course: $(READY)
	cd notebooks && ../$(BIN)/python -m jupyter lab

slug: $(READY)
	@test -n "$(REPO)" || { echo "error: name the fork: make slug REPO=owner/name"; exit 2; }
	$(BIN)/python notebooks/build.py --slug $(REPO)

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/python -m mypy

# The bundled tokenizer and nano model. Takes about ten minutes.
assets: $(READY)
	$(BIN)/picolm bundle

# The bundled tokenizer of 8,192 tokens, from a sample of TinyStories: make tokenizer DATA=folder
TINYSTORIES_8K := picolm_lib/assets/tinystories-8k
tokenizer: $(READY)
	@test -n "$(DATA)" || { echo "error: name the stories: make tokenizer DATA=folder"; exit 2; }
	rm -rf $(TINYSTORIES_8K)
	$(BIN)/picolm tokenizer --data $(DATA) --vocab-size 8192 --out $(TINYSTORIES_8K)

$(READY): pyproject.toml requirements.txt tests/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one, such as: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) (once; a few minutes, most of them PyTorch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --requirement requirements.txt --constraint tests/constraints.txt
	@touch $(READY)

$(LOWEST_READY): pyproject.toml tests/lowest.txt
	@echo "setting up $(LOWEST) (once; a few minutes, most of them PyTorch)"
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --requirement requirements.txt $(TORCH) --constraint tests/lowest.txt
	@touch $(LOWEST_READY)

# The list is complete, as a freeze is, so pip need not look for more.
$(COLAB_READY): tests/colab/constraints.txt
	@echo "setting up $(COLAB) (once; a few minutes, most of them PyTorch)"
	@$(PYTHON) -m venv --clear $(COLAB)
	@$(COLAB)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement tests/colab/constraints.txt
	@touch $(COLAB_READY)

$(LM_EVAL_READY): tests/lm_eval/requirements.txt tests/constraints.txt
	@echo "setting up $(LM_EVAL) (once; a few minutes, most of them PyTorch)"
	@$(PYTHON) -m venv --clear $(LM_EVAL)
	@$(LM_EVAL)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --requirement tests/lm_eval/requirements.txt
	@touch $(LM_EVAL_READY)

clean:
	rm -rf $(VENV) $(LOWEST) $(COLAB) $(LM_EVAL) runs build *.egg-info
