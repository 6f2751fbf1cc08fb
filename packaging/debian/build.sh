#!/bin/sh
# make deb: dist/kmsd_VERSION-1_ARCH.deb, with the locked wheels in a folder of its own that Debian 12's python3 runs.
# ARCH=arm64 packs those of another architecture: nothing is compiled. MAINTAINER="Name <address>" is who answers for it.
# The same commit gives the same bytes.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD here=$PWD/packaging/debian python=$PWD/.venv/bin/python
arch=${ARCH:-$(dpkg --print-architecture)}
case $arch in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) echo "kmsd is packed for amd64 and arm64, not for $arch" >&2; exit 2 ;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)}
export SOURCE_DATE_EPOCH
maintainer=${MAINTAINER:-kmsd <kmsd@localhost.localdomain>}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

stage=$work/stage lib=$work/stage/usr/lib/kmsd doc=$work/stage/usr/share/doc/kmsd
site=$lib/lib/python3.11/site-packages
mkdir -p "$lib/bin" "$doc" "$stage/DEBIAN" "$stage/usr/bin" "$stage/etc/kmsd"

# What runs, of the lock: the wheels alone, by their hashes.
"$python" -m hatchling build --target wheel --directory "$work" >/dev/null
"$python" scripts/sbom.py > "$work/here.json"
"$python" "$here/locked.py" requirements/run.lock "$work/here.json" > "$work/lock"
# Wheels for any glibc up to that of Debian 12.
set --
minor=36
while [ $minor -ge 12 ]; do
  set -- "$@" --platform "manylinux_2_${minor}_$machine"
  minor=$((minor - 1))
done
pip() {
  "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --no-deps --only-binary :all: \
    --python-version 3.11 --implementation cp --target "$site" "$@"
}
pip "$@" --platform "manylinux2014_$machine" --require-hashes -r "$work/lock"
pip "$@" "$work"/kmsd-*.whl
rm -rf "$site/bin"
PYTHONPATH=$site "$python" -S -B scripts/sbom.py > "$work/sbom.json"
find "$site" \( -name RECORD -o -name direct_url.json -o -name REQUESTED -o -name INSTALLER \) -path '*.dist-info/*' -delete
find "$site" -name __pycache__ -prune -exec rm -rf {} +
find "$site" -type f -exec chmod 644 {} +

# A venv by hand: python3 -m venv would write down where it was made.
ln -s ../../../bin/python3.11 "$lib/bin/python3"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' > "$lib/pyvenv.cfg"
for program in kmsd:kmsd.cli k8s-kms-plugin:kmsd.cli kmsctl:kmsctl.app kmstui:kmstui.app; do
  name=${program%:*}
  printf '#!/usr/lib/kmsd/bin/python3 -I\nimport sys\n\nfrom %s import main\n\nsys.exit(main())\n' "${program#*:}" > "$lib/bin/$name"
  chmod 755 "$lib/bin/$name"
  ln -s "../lib/kmsd/bin/$name" "$stage/usr/bin/$name"
done

put() { # MODE FILE WHERE
  install -D -m "$1" "$2" "$stage/$3"
}
for unit in kmsd kmsd-proxy kmsd-key-manager; do
  put 644 "k8s/systemd/$unit.service" "lib/systemd/system/$unit.service"
done
put 644 "$here/kmsd.sysusers" usr/lib/sysusers.d/kmsd.conf
put 644 "$here/kmsd.tmpfiles" usr/lib/tmpfiles.d/kmsd.conf
put 644 k8s/systemd/kmsd.toml etc/kmsd/kmsd.toml
put 644 k8s/static-pod/softhsm2.conf etc/kmsd/softhsm2.conf
put 644 "$here/lintian-overrides" usr/share/lintian/overrides/kmsd
mkdir -p "$stage/usr/share/bash-completion/completions" "$stage/usr/share/zsh/vendor-completions" \
  "$stage/usr/share/fish/vendor_completions.d"
.venv/bin/kmsctl completion bash > "$stage/usr/share/bash-completion/completions/kmsctl"
.venv/bin/kmsctl completion zsh > "$stage/usr/share/zsh/vendor-completions/_kmsctl"
.venv/bin/kmsctl completion fish > "$stage/usr/share/fish/vendor_completions.d/kmsctl.fish"
"$python" scripts/manpages.py "$work/man" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)"
for page in "$work"/man/*; do
  put 644 "$page" "usr/share/man/man${page##*.}/${page##*/}"
done
gzip -9n "$stage"/usr/share/man/man*/*
ln -s kmsd.8.gz "$stage/usr/share/man/man8/k8s-kms-plugin.8.gz"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' kmsd/__init__.py)-1
put 644 "$here/copyright" usr/share/doc/kmsd/copyright
put 644 README.md usr/share/doc/kmsd/README.md
put 644 "$work/sbom.json" usr/share/doc/kmsd/kmsd.cdx.json
for page in docs/*.md docs/reference/*.md; do
  put 644 "$page" "usr/share/doc/kmsd/$page"
done
mkdir -p "$doc/examples"
cp -r k8s/. "$doc/examples/"
find "$doc/examples" -type f -exec chmod 644 {} +
gzip -9nc CHANGELOG.md > "$doc/changelog.gz"
printf 'kmsd (%s) unstable; urgency=medium\n\n  * What is new: /usr/share/doc/kmsd/changelog.gz.\n\n -- %s  %s\n' \
  "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9nc > "$doc/changelog.Debian.gz"

printf '/etc/kmsd/kmsd.toml\n/etc/kmsd/softhsm2.conf\n' > "$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  install -m 755 "$here/$script" "$stage/DEBIAN/$script"
done
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f ! -path './etc/*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum) \
  > "$stage/DEBIAN/md5sums"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@MAINTAINER@/$maintainer/" -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$stage" | cut -f1)/" \
  "$here/control" > "$stage/DEBIAN/control"
mkdir -p dist
find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --threads-max=1 ${DEB_OPTIONS:--Zxz} --build "$stage" "dist/kmsd_${version}_$arch.deb" >/dev/null
echo "$root/dist/kmsd_${version}_$arch.deb"
