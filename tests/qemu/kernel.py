"""Gets Debian's newest 6.12 kernel by apt, whose signatures vouch for it, and unpacks it.

And its headers, to build a module. Owns build/qemu/; never installs a kernel on this machine and
needs no root.
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


def _unpacked(build: Path, packages: list[str], version: str) -> Path:
    """Where the packages are unpacked under build; downloaded unless they are there already."""
    root = build / f"{packages[0]}_{version.replace(':', '%3a')}"
    if root.exists():
        return root
    partial = build / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names = [f"{package}={version}" for package in packages]
    _output("apt-get", "-q", "download", *names, cwd=partial)
    unpacked = partial / "root"
    for deb in partial.glob("*.deb"):
        _output("dpkg-deb", "-x", str(deb), str(unpacked))
    unpacked.rename(root)
    shutil.rmtree(partial)
    return root


def get(build: Path) -> Kernel:
    """The kernel, downloaded and unpacked under build unless it is there already."""
    package, version = newest_package()
    release = package.removeprefix("linux-image-")
    root = _unpacked(build, [package], version)
    lib = root / "usr/lib" if (root / "usr/lib/modules").exists() else root / "lib"
    kernel = Kernel(
        release=release,
        package=version,
        image=root / "boot" / f"vmlinuz-{release}",
        modules=lib / "modules" / release,
    )
    if not (kernel.modules / "modules.dep").exists():
        depmod = shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if depmod is None:
            raise KernelError("depmod is missing: apt install kmod")
        (root / "lib").mkdir(exist_ok=True)
        if lib != root / "lib":  # where newer packages put them, and depmod does not look
            (root / "lib/modules").symlink_to("../usr/lib/modules")
        _output(depmod, "-b", str(root), release)
    return kernel


def headers(build: Path, kernel: Kernel) -> Path:
    """What modules for this kernel are built against."""
    package = f"linux-headers-{kernel.release}"
    depends = _output("apt-cache", "depends", f"{package}={kernel.package}")
    others = re.findall(r"Depends: (linux-(?:headers|kbuild)-\S+)$", depends, re.M)
    root = _unpacked(build, [package, *others], kernel.package)
    tree = root / "usr/src" / package
    makefile = tree / "Makefile"
    # It names the other package by where that would be installed.
    here = re.sub(
        r"^include .*/usr/src/(?=linux-)", f"include {root}/usr/src/", makefile.read_text()
    )
    makefile.write_text(here)
    return tree
