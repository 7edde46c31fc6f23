# Start here: `make demo` adapts the shipped tiny model on this machine, `make test` checks the project.
.PHONY: help setup demo test research-test docs models clean
MAKEFLAGS += --no-print-directory
BIN := .venv/bin

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that the other targets need; instant when it is there
	@bash tools/setup.sh

demo: setup ## Adapt the shipped tiny model to its demo data and write the report
	@$(BIN)/leaml adapt demo

test: setup ## Lint, format check, imports, types and tests; PYTEST_ARGS="-k name" narrows the last
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m mypy --num-workers 2
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

research-test: setup ## Tests of the experiments on the method, which `make test` leaves out
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m research $(PYTEST_ARGS)

docs: setup ## Build the documentation as a site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

models: setup ## Retrain the two shipped tiny models from the procedural world
	@$(BIN)/python -m research.tiny.train base --out leaml/tiny/models/leaml-tiny
	@$(BIN)/python -m research.tiny.train teacher --out leaml/tiny/models/leaml-tiny-teacher

clean: ## Remove caches and build leftovers; .venv and runs stay
	@rm -rf build dist *.egg-info .ruff_cache .mypy_cache .pytest_cache
	@find . \( -path ./.venv -o -path ./.git -o -path ./runs \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
