"""Builds the guest's first root: a static busybox, init.sh and the modules that mount the real one.

Pure but for reading its parts: the archive is returned as bytes.
"""

from __future__ import annotations

import lzma
import re
import stat
from pathlib import Path

from .kernel import Kernel, KernelError

BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).with_name("init.sh")
# To reach the host's files, and to have an overlay over them; the rest is loaded when asked for.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


def _name(path: str) -> str:
    """Of a module, as modprobe would have it: kernel/net/tls/tls.ko.xz is tls."""
    return re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_")


def modules_in_order(dependencies: str, wanted: tuple[str, ...]) -> list[str]:
    """Paths of the wanted modules and what they need, from modules.dep, each after its needs.

    A wanted module that is not listed is part of the kernel proper.
    """
    needs = {}
    for line in dependencies.splitlines():
        path, _, needed = line.partition(":")
        needs[_name(path)] = (path, needed.split())
    order: list[str] = []
    for name in wanted:
        if name not in needs:
            continue
        path, rest = needs[name]
        order += [each for each in [*reversed(rest), path] if each not in order]
    return order


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a cpio archive in "newc" format (initramfs buffer format, kernel docs)."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def build(kernel: Kernel) -> bytes:
    """The archive. KernelError: no busybox that needs no libraries."""
    if not BUSYBOX.exists() or b"/ld-linux" in BUSYBOX.read_bytes():
        raise KernelError("a static busybox is missing: apt install busybox-static")
    paths = modules_in_order((kernel.modules / "modules.dep").read_text(), MODULES)
    directory, program, file = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    parts = [_entry(name, directory) for name in ("bin", "modules", "proc", "sys", "dev", "host")]
    parts += [_entry(name, directory) for name in ("overlay", "root")]
    parts.append(_entry("bin/busybox", program, BUSYBOX.read_bytes()))
    parts.append(_entry("init", program, INIT.read_bytes()))
    for number, path in enumerate(paths):
        module = _module(kernel.modules / path)
        parts.append(_entry(f"modules/{number:02}-{_name(path)}", file, module))
    return b"".join([*parts, _entry("TRAILER!!!", 0)])
