#!/bin/sh
# Write requirements/*.lock anew: exact versions with hashes, for every supported Python.
# Lock files name no place to download from: pip's own configuration decides that.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make lock' --extra build pyproject.toml -o requirements/run.lock
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make lock' --extra build --extra debug --extra test -c requirements/run.lock \
  pyproject.toml -o requirements/dev.lock
# What `make fuzz` adds is large, and is no part of .venv before somebody fuzzes.
.venv/bin/python -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["fuzz"], sep="\n")
' | "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make lock' - -o requirements/fuzz.lock
