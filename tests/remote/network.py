"""Machines with network namespaces of their own on one Ethernet, whose cables can be pulled.

Needs root, or a kernel that lets anybody have namespaces; `permitted` says whether that is so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator
from typing import Final, Literal

How = Literal["down", "silent", "answers"]
"""The ways to part a machine from the others. down: its interface is off. silent: what it sends and gets is lost on the
way, and nobody is told. answers: it hears, and what it says does not leave it."""
_PREFIX: Final = "10.99.0"


@functools.cache
def permitted() -> str:
    """Return why no namespaces can be made here; empty if they can be."""
    if os.geteuid() != 0:
        return "only root can make network namespaces that kmsd is started in"
    tried = "ip link add veth1 type veth peer name veth2 && ip link add br0 type bridge && ip link set veth2 master br0"
    done = subprocess.run(["unshare", "-n", "sh", "-c", tried], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


class _Namespace:
    """A network namespace, which lives as long as a process that does nothing."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.read(1) == b"\n"
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def entered(self) -> tuple[str, ...]:
        """What stands before a command that is to run there."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def run(self, *command: str) -> None:
        done = subprocess.run([*self.entered, *command], capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class Host(_Namespace):
    """A machine on the network. address: its IP address."""

    def __init__(self, switch: _Namespace, number: int) -> None:
        super().__init__()
        self._switch = switch
        self._port = f"p{number}"
        self.address = f"{_PREFIX}.{number}"
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.run("ip", "link", "add", "eth0", "address", self.mac, "type", "veth", "peer", "name", self._port)
        self.run("ip", "link", "set", self._port, "netns", str(switch.pid))
        switch.run("ip", "link", "set", self._port, "master", "br0", "up")
        self._bring_up()

    def _bring_up(self) -> None:
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "address", "replace", f"{self.address}/24", "dev", "eth0")

    def knows(self, other: Host) -> None:
        """Let it know where another is without asking: a question that nobody answers would tell that it is away."""
        self.run("ip", "neigh", "replace", other.address, "lladdr", other.mac, "dev", "eth0", "nud", "permanent")

    @contextlib.contextmanager
    def parted(self, how: How, *others: Host) -> Iterator[None]:
        """Part it from all; answers: from these others."""
        match how:
            case "down":
                self.run("ip", "link", "set", "eth0", "down")
            case "silent":
                self._switch.run("bridge", "link", "set", "dev", self._port, "state", "0")
            case "answers":
                for other in others:
                    self.run("ip", "route", "add", "blackhole", f"{other.address}/32")
        try:
            yield
        finally:
            match how:
                case "down":
                    self._bring_up()
                    for other in others:
                        self.knows(other)
                case "silent":
                    self._switch.run("bridge", "link", "set", "dev", self._port, "state", "3")
                case "answers":
                    for other in others:
                        self.run("ip", "route", "del", "blackhole", f"{other.address}/32")


@contextlib.contextmanager
def network(hosts: int) -> Iterator[list[Host]]:
    """Make a switch, and so many machines at it."""
    with contextlib.ExitStack() as made:
        switch = _Namespace()
        made.callback(switch.close)
        switch.run("ip", "link", "add", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        there: list[Host] = []
        for number in range(1, hosts + 1):
            there.append(Host(switch, number))
            made.callback(there[-1].close)
        for each in there:
            for other in there:
                if other is not each:
                    each.knows(other)
        yield there
