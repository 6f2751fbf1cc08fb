#!/bin/sh
# make build: the sdist and, from nothing but that, the wheel, in dist/; then the wheel with the locked versions in a venv
# of its own, where its programs run; and what that venv is made of (SBOM).
set -eu
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Of members of archives, so that the same sources make the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)}
export SOURCE_DATE_EPOCH

rm -rf dist
.venv/bin/python -m hatchling build --target sdist --directory "$root/dist" >/dev/null
tar -xzf dist/kmsd-*.tar.gz -C "$work"
(cd "$work"/kmsd-* && "$root/.venv/bin/python" -m hatchling build --target wheel --directory "$root/dist" >/dev/null)

echo "trying the wheel in a venv of its own" >&2
"${PYTHON:-python3}" -m venv "$work/venv"
unset PYTHONPATH
cd "$work"
pip="venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install"
$pip --require-hashes -r "$root/requirements/run.lock"
$pip --no-deps "$root"/dist/kmsd-*.whl
cat > modules.py <<'EOF'
import importlib, pkgutil, sys
for package in ("kmsd", "kmsctl", "kmstui"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
home = sys.modules["kmsd"].__file__
sys.exit(None if home.startswith(sys.prefix) else f"the programs of the venv run {home}, not what is in the wheel")
EOF
venv/bin/python modules.py
for program in kmsctl kmstui k8s-kms-plugin; do
  "venv/bin/$program" --help >/dev/null
done
version=$(venv/bin/kmsd --version)
venv/bin/python "$root/scripts/sbom.py" > "$root/dist/kmsd-${version##* }.cdx.json"
echo "$version runs from the wheel" >&2
cd "$root/dist"
sha256sum kmsd-* | tee SHA256SUMS
