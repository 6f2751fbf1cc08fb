"""`kmsd dev`: a kmsd to try things with, on a SoftHSM token of its own under the user's data directory.

Touches nothing outside that directory: the token, its PINs, SoftHSM's configuration, both sockets and a ready
EncryptionConfiguration lie in it. Removing it removes everything, the key included.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Final

from kmsd import daemon, paths, safepath
from kmsd.config.settings import Admin, Keys, Kms, Log, Settings, State, Token
from kmsd.config.sources import Loaded, Origin, value
from kmsd.config.values import LEAVES
from kmsd.errors import KmsdError, on_stderr
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.host import module as modules
from kmsd.hsm.host.provision import ensure_token

_LABEL: Final = "kmsd-dev"
_KEY: Final = "k8s-kek"

_ENCRYPTION: Final = """\
# For kube-apiserver: --encryption-provider-config=<this file>
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms:
          apiVersion: {version}
          name: kmsd-dev
          endpoint: unix://{socket}
          timeout: 3s
      - identity: {{}}
"""


def run(*, log_level: str, log_format: str) -> int:
    """Prepare what is missing, serve, say what to type next. Returns the exit code."""
    folder = paths.dev_dir()
    try:
        loaded = _prepare(folder, log_level, log_format)
    except (KmsdError, CkrError, OSError, ValueError) as error:
        hint = error.hint if isinstance(error, KmsdError) else f"rm -r {folder} begins anew, without the dev key"
        what = error.message if isinstance(error, KmsdError) else str(error)
        sys.stderr.write(on_stderr(what, hint))
        return 1
    return daemon.serve(loaded, lambda: loaded, on_ready=lambda: _say(folder))


def _prepare(folder: Path, log_level: str, log_format: str) -> Loaded:
    safepath.prepare(folder, "the development token and its PIN")
    safepath.prepare(folder / "tokens", "the development token")
    conf = folder / "softhsm2.conf"
    _write(conf, f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = _secret(folder / "pin")
    so_pin = _secret(folder / "so-pin")
    for version, name in (("v2", "encryption-config.yaml"), ("v1", "encryption-config-v1beta1.yaml")):
        _write(folder / name, _ENCRYPTION.format(version=version, socket=paths.dev_kms_socket()))
    # SoftHSM reads this when it is initialised, and nobody else does.
    os.environ["SOFTHSM2_CONF"] = str(conf)
    module = modules.load(modules.module_path("softhsm", ""))
    try:
        ensure_token(module, _LABEL, so_pin, pin)
    finally:
        # The daemon loads it anew, as it would any other.
        module.finalize()
    settings = Settings(
        kms=Kms(socket=paths.dev_kms_socket()),
        admin=Admin(socket=paths.dev_admin_socket()),
        token=Token(provider="softhsm", label=_LABEL, pin_file=folder / "pin"),
        keys=Keys(label=_KEY, auto_create=True),
        log=Log.model_validate({"format": log_format, "level": log_level}),
        state=State(dir=folder),
    )
    ours = Origin("default", "kmsd dev")
    fresh = Settings()
    origins = {
        key: Origin("default", "default") if value(fresh, key) == value(settings, key) else ours for key in LEAVES
    }
    return Loaded(settings=settings, origins=origins, file=None, warnings=())


def _secret(path: Path) -> str:
    """Return the secret in this file, which is made the first time."""
    with contextlib.suppress(FileExistsError):
        _write(path, secrets.token_urlsafe(24) + "\n", new=True)
    return path.read_text().strip()


def _write(path: Path, text: str, *, new: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if new else os.O_TRUNC)
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(text)


def _say(folder: Path) -> None:
    kms, admin = paths.dev_kms_socket(), paths.dev_admin_socket()
    # The tools find this kmsd by themselves, unless one is installed on the machine.
    target = f" --target unix://{admin}" if paths.admin_socket().exists() else ""
    socket = f" --socket {kms}" if paths.kms_socket().exists() else ""
    sys.stdout.write(
        f"""kmsd dev serves on a software token of its own, in {folder}

  KMS v2 and v1beta1   unix://{kms}
  admin                unix://{admin}
  for kube-apiserver   {folder / "encryption-config.yaml"}

Type next, in another terminal:
  {_program("kmsctl")}{target} status
  {_program("kmstui")}{target}
  echo hello | {_program("kmsctl")} encrypt{socket} - | {_program("kmsctl")} decrypt{socket} -
Ctrl-C stops it; rm -r {folder} removes everything, the key included.
"""
    )
    sys.stdout.flush()


def _program(name: str) -> str:
    """Return how to type the program that was installed beside this one."""
    beside = Path(sys.argv[0]).resolve().with_name(name)
    found = shutil.which(name)
    if found and Path(found).resolve() == beside:
        return name
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)
