PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Files of tests over two processes; SPREAD= runs them one after the other.
SPREAD ?= -n 2 --dist loadfile

.PHONY: demo test quick lint setup clean

demo: setup
	$(BIN)/remot run pipelines/demo.yaml --set out=$(OUT)

# Tests start hundreds of processes. Images often forbid Python to keep what it compiles: each would do it again.
test quick: export PYTHONDONTWRITEBYTECODE =

test: setup lint
	$(BIN)/python -m pytest $(SPREAD) --durations=10

quick: setup lint
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,app,decord,s3,http,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
