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
# Of tools that one target of make wants each, and that are no part of .venv before.
for extra in docs fuzz image; do
  .venv/bin/python -c '
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
' $extra | "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-annotate --custom-compile-command 'make lock' - -o requirements/$extra.lock
done
