#!/bin/sh
# make docs: the site of the pages, in build/site; a link to a page or heading that is not there fails.
set -eu
cd "$(dirname "$0")/.."
. scripts/own-venv.sh
own_venv docs
.venv/bin/python scripts/site_pages.py build
"$venv/bin/zensical" build --clean --strict --config-file build/mkdocs.yml
echo "$PWD/build/site/index.html" >&2
