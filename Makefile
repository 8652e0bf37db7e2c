# Short names for what a developer does often. (make is on nearly every machine; just is not.)
.PHONY: check fmt test slow docs lock hooks

check:  ## all that CI runs
	bash .ci/run

fmt:  ## format, and mend what ruff can
	tools/run ruff check --fix .
	tools/run ruff format .

test:  ## the quick tests
	tools/run pytest

slow:  ## the others
	tools/run pytest -m "slow or aot"

docs:  ## write the generated pages
	tools/run python tools/methods_table.py
	tools/run python tools/config_reference.py

lock:  ## pin anew after a change of dependencies; `make lock UPGRADE=--upgrade` takes the newest
	tools/run python tools/lock.py $(UPGRADE)

hooks:  ## run the static checks before each commit
	tools/run pre-commit install
