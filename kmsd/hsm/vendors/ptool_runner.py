"""Runs tpm2_ptool with its secrets out of everybody's sight. Not imported: run by tpm2_ptool's own Python.

    PYTHON -I ptool_runner.py < JOB

tpm2_ptool takes the PIN in its argument list, and hands what it makes of it to the tpm2 tools in theirs: any user of
the machine can read both in /proc. So this reads JOB from standard input (JSON: commands, each a list of arguments;
flush), sets the arguments inside the process only, and gives the tools their secrets as files in memory.

flush: nothing manages the TPM's memory, so what each tool leaves loaded is thrown out after it.

Uses the standard library alone, of whatever Python tpm2_ptool has. Prints one line of JSON for each command that went
well; the first that does not ends it, with the reason on standard error.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

_SECRET_OPTIONS = ("-p", "-P")
"""Options of the tpm2 tools: an object's and its parent's authorisation value."""


class _Tool(subprocess.Popen):  # type: ignore[type-arg]  # older Pythons cannot say which
    """A tpm2 tool, started by tpm2_ptool."""

    flush = False

    def __init__(self, command: Any, **keywords: Any) -> None:
        hidden, files = _hide(list(command))
        try:
            super().__init__(hidden, pass_fds=files, **keywords)
        finally:
            for file in files:
                os.close(file)

    def wait(self, timeout: Any = None) -> int:
        code: int = super().wait(timeout)
        if self.flush:
            flush_transient()
        return code


def _hide(command: list[str]) -> tuple[list[str], list[int]]:
    """Return the command with its secrets replaced by names of files in memory, and those files' descriptors."""
    files: list[int] = []
    for at, option in enumerate(command[:-1]):
        if option in _SECRET_OPTIONS:
            file = os.memfd_create("auth")
            os.write(file, command[at + 1].encode())
            files.append(file)
            command[at + 1] = f"file:/proc/self/fd/{file}"
    return command, files


def flush_transient() -> None:
    """Free the TPM's memory of what earlier commands left there."""
    subprocess.run(["tpm2_flushcontext", "-t"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main() -> int:
    """Run the commands on standard input, and tell how many went well."""
    job = json.load(sys.stdin)
    tools: Any = importlib.import_module("tpm2_pkcs11.tpm2")
    ptool = importlib.import_module("tpm2_pkcs11.tpm2_ptool")
    if getattr(tools, "Popen", None) is not subprocess.Popen:
        sys.stderr.write("this version of tpm2_ptool starts the tpm2 tools in a way that is not known\n")
        return 3
    _Tool.flush = bool(job["flush"])
    tools.Popen = _Tool
    if _Tool.flush:
        flush_transient()
    for command in job["commands"]:
        # What it prints is not for us; what it says on standard error is.
        with tempfile.TemporaryFile("w+") as output:
            sys.argv = ["tpm2_ptool", *command]
            sys.stdout, saved = output, sys.stdout
            try:
                ptool.main()
            except SystemExit as end:
                if end.code:
                    sys.stderr.write(f"{end.code}\n")
                    return 1
            except Exception as error:  # noqa: BLE001  whatever it raises, its words are wanted
                sys.stderr.write(f"{error}\n")
                return 1
            finally:
                sys.stdout = saved
        sys.stdout.write("{}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
