"""The machine against the files of firmware-config: kernel options, modules, sysctls. For doctor.

Owns looking; changes nothing. What cannot be known (no /lib/modules, no kernel configuration) is
not complained about. Kernel TLS is missed only where the OffloadProfile asks for it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from appliance.paths import shipped
from appliance.system.finding import Finding

ROOT = Path("/")
LISTED_MAX = 6
CONFIG_BYTES_MAX = 4 << 20
_ASKS = {"ktls": ("ktls",), "nic": ("ktls", "nic")}  # prefer → files of kernel/
_TLS = "tls"
# Of these the box may have more than the file says; all others are to be as they are there.
_AT_LEAST = ("fs.", "net.core.", "net.ipv4.tcp_max_", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")
_SYSCTL_FILE = "60-sluice.conf"


def findings(prefer: str, root: Path = ROOT) -> tuple[Finding, ...]:
    """prefer: as the OffloadProfile says."""
    return (*_kernel_tls(prefer, root), *_modules(root), _sysctls(root))


def _kernel_tls(prefer: str, root: Path) -> Iterator[Finding]:
    there = _TLS in _read(root / "proc/sys/net/ipv4/tcp_available_ulp").split()
    if prefer not in _ASKS:
        yield Finding(
            "ok", "kernel TLS" if there else f"no kernel TLS; prefer: {prefer} needs none"
        )
        return
    config = _config(root)
    lacks = [
        option
        for name in _ASKS[prefer]
        for option in _lines(_read(shipped("kernel") / f"{name}.conf"))
        if config and f"{option}=y" not in config and f"{option}=m" not in config
    ]
    if lacks:
        yield Finding(
            "warning",
            f"prefer: {prefer}, but this kernel was built without {' and '.join(lacks)}: our own "
            "code seals the records",
            "run Debian's kernel (linux-image-amd64), or prefer: user",
        )
    elif not there:
        yield Finding(
            "warning",
            f"prefer: {prefer}, but the kernel's TLS is not loaded: our own code seals the records",
            "modprobe tls",
        )
    elif prefer == "nic" and not (root / "proc/net/tls_stat").exists():
        yield Finding(
            "warning",
            "prefer: nic, but the kernel does not count TLS (/proc/net/tls_stat)",
            "run Debian's kernel (linux-image-amd64)",
        )
    else:
        yield Finding("ok", f"kernel TLS, for prefer: {prefer}")


def _modules(root: Path) -> Iterator[Finding]:
    """Those of modules-load.d that there are not; TLS is looked at above."""
    folder = root / "lib/modules" / _read(root / "proc/sys/kernel/osrelease").strip()
    known = _read(folder / "modules.dep") + _read(folder / "modules.builtin")
    if not known:
        return
    wanted = [
        name
        for path in sorted(shipped("modules-load.d").glob("*.conf"))
        for name in _lines(_read(path))
        if name != _TLS
    ]
    loaded = {line.split()[0] for line in _read(root / "proc/modules").splitlines() if line}
    missing = [
        name
        for name in wanted
        if name not in loaded and f"/{name.replace('-', '_')}.ko" not in known
    ]
    if missing:
        yield Finding(
            "warning",
            f"this kernel has no module {', '.join(missing)}: interception may not work",
            "run Debian's kernel (linux-image-amd64)",
        )
    else:
        yield Finding("ok", f"{len(wanted)} kernel modules are there")


def _sysctls(root: Path) -> Finding:
    installed = root / "etc/sysctl.d" / _SYSCTL_FILE
    file = installed if installed.exists() else shipped("sysctl.d") / _SYSCTL_FILE
    differ = []
    for line in _lines(_read(file)):
        key, _, value = line.partition("=")
        name, wanted = key.strip(), value.split()
        held = _read(root / "proc/sys" / name.replace(".", "/")).split()
        if held and not _suits(name, held, wanted):
            differ.append(f"{name} is {' '.join(held)}, not {' '.join(wanted)}")
    if not differ:
        return Finding("ok", f"sysctls as in {file.name}")
    more = f" and {len(differ) - LISTED_MAX} more" if len(differ) > LISTED_MAX else ""
    return Finding(
        "warning",
        f"{'; '.join(differ[:LISTED_MAX])}{more}",
        f"sysctl -p {installed}" if installed.exists() else f"make install, or sysctl -p {file}",
    )


def _suits(name: str, held: list[str], wanted: list[str]) -> bool:
    numbers = [*held, *wanted]
    if not name.startswith(_AT_LEAST) or not all(each.isdigit() for each in numbers):
        return held == wanted
    if name == "fs.pipe-user-pages-soft" and held == ["0"]:  # no limit
        return True
    return len(held) == len(wanted) and all(
        int(one) >= int(other) for one, other in zip(held, wanted, strict=True)
    )


def _config(root: Path) -> frozenset[str]:
    """Lines of the running kernel's configuration; none = not to be found."""
    release = _read(root / "proc/sys/kernel/osrelease").strip()
    text = _read(root / "boot" / f"config-{release}") if release else ""
    if not text:
        try:
            with gzip.open(root / "proc/config.gz", "rt", encoding="ascii") as file:
                text = file.read(CONFIG_BYTES_MAX)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError):
            return frozenset()
    return frozenset(text.splitlines())


def _lines(text: str) -> list[str]:
    """Without comments and empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
