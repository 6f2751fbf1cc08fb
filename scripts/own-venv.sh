# Sourced: own_venv NAME sets $venv to a venv in build/ with what requirements/NAME.lock has, and with nothing else. For tools
# that only one target of make wants.
own_venv() {
  lock=requirements/$1.lock venv=build/$1-venv
  want=$(sha256sum "$lock")
  [ "$(cat "$venv/.installed" 2>/dev/null)" != "$want" ] || return 0
  echo "installing $lock" >&2
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"
  echo "$want" > "$venv/.installed"
}
