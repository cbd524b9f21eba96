"""Gets Debian's newest 6.12 kernel by apt, whose signatures vouch for it, and unpacks it.

Owns build/qemu/; never installs a kernel on this machine and needs no root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SERIES = "6.12"
# Debian 12 has it beside its own kernel, Debian 13 as its own.
META_PACKAGES = ("linux-image-6.12-amd64", "linux-image-amd64")
UNAVAILABLE = "apt knows no linux-image-6.12…-amd64: run `apt-get update` on Debian 12 or 13"


class KernelError(Exception):
    """One line: why there is no kernel, and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str  # what uname -r will say
    package: str  # Debian's version
    image: Path
    modules: Path  # lib/modules/<release>


def _output(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise KernelError(f"`{' '.join(command)}` failed: {last}")
    return done.stdout


def newest_package() -> tuple[str, str]:
    """(package, Debian version) of the newest 6.12 kernel that apt offers, or KernelError."""
    if shutil.which("apt-cache") is None:
        raise KernelError("no apt here: the test kernel comes from Debian 12 or 13")
    pattern = re.compile(rf"^\s*(?:\||)Depends: (linux-image-{re.escape(SERIES)}\.\S+)$", re.M)
    found = []
    for meta in META_PACKAGES:
        known = subprocess.run(
            ["apt-cache", "depends", meta], capture_output=True, text=True, check=False
        )
        for package in pattern.findall(known.stdout):
            policy = _output("apt-cache", "policy", package)
            candidate = re.search(r"Candidate: (\S+)", policy)
            if candidate and candidate[1] != "(none)":
                found.append((package, candidate[1]))
    if not found:
        raise KernelError(UNAVAILABLE)
    newest = found[0]
    for other in found[1:]:
        newer = ["dpkg", "--compare-versions", other[1], "gt", newest[1]]
        if subprocess.run(newer, check=False).returncode == 0:
            newest = other
    return newest


def get(build: Path) -> Kernel:
    """The kernel, downloaded and unpacked under build unless it is there already."""
    package, version = newest_package()
    release = package.removeprefix("linux-image-")
    root = build / f"{package}_{version.replace(':', '%3a')}"
    kernel = Kernel(
        release=release,
        package=version,
        image=root / "boot" / f"vmlinuz-{release}",
        modules=root / "lib" / "modules" / release,
    )
    if (kernel.modules / "modules.dep").exists():
        return kernel
    partial = build / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    partial.mkdir(parents=True)
    _output("apt-get", "-q", "download", f"{package}={version}", cwd=partial)
    (deb,) = partial.glob("*.deb")
    unpacked = partial / "root"
    _output("dpkg-deb", "-x", str(deb), str(unpacked))
    if (unpacked / "usr/lib/modules").exists():  # where newer packages put them
        (unpacked / "usr/lib/modules").rename(unpacked / "lib-modules")
        (unpacked / "lib").mkdir(exist_ok=True)
        (unpacked / "lib-modules").rename(unpacked / "lib/modules")
    depmod = shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if depmod is None:
        raise KernelError("depmod is missing: apt install kmod")
    _output(depmod, "-b", str(unpacked), release)
    unpacked.rename(root)
    shutil.rmtree(partial)
    return kernel
