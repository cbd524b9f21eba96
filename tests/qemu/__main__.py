"""Boots the guests, shows their consoles and takes their verdicts: python -m tests.qemu.

Exit 0 when every test in them passed, 1 when one failed or no verdict came in time. There are two
guests side by side: one runs the C programs, and one two whole sites, which take as long to start
there as all the programs to run. From the environment: T=engine runs one program, CASE=mesh its
cases of that name; T=two_sites the sites alone; T=cost counts instructions, which is no test. The
processor is emulated, so that the guest is the same everywhere.

python -m tests.qemu prepare: gets and builds what the guest needs, and boots nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from . import initrd, kernel, module

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "qemu"
TIMEOUT_S = 600  # several times what an idle machine of two cores takes
QEMU = "qemu-system-x86_64"
PROGRAMS, SITES, COST = "", "two_sites", "cost"
# One thread: with one a processor, a guest that patches its own code may run what was there before.
EMULATED = ("-accel", "tcg,thread=single", "-smp", "2")
COUNTING = ("-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0")
SIMPLE = ",erms=off,fsrm=off"  # or each byte of a copy would count as an instruction
CPU = "max,la57=off,smap=off,smep=off,pku=off,pks=off"  # without what only slows an emulator


def cannot() -> str | None:
    """Why there can be no guest on this machine, or None."""
    for program in (QEMU, "busybox", "depmod"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            return f"{program} is missing: firmware-config/debian/install-packages qemu"
    try:
        kernel.newest_package()
    except kernel.KernelError as error:
        return str(error)
    return None


Show = Callable[[str | None], None]


@dataclass(slots=True)
class Guest:
    """One machine, from its start to its end."""

    only: str  # what it runs
    lines: list[str] = field(default_factory=list)  # of its console
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return sum(line.startswith(("ok ", "PASSED ")) for line in self.lines)

    @property
    def failed(self) -> int:
        bad = sum(line.startswith(("not ok ", "FAILED ", "ERROR ")) for line in self.lines)
        good = self.verdicts == ["sluice-guest: verdict 0"] and self.passed > 0
        return bad if good else max(bad, 1)

    @property
    def verdicts(self) -> list[str]:
        return [line for line in self.lines if line.startswith("sluice-guest: ")]

    def run(self, debian: kernel.Kernel, archive: Path, adapter: Path, show: Show) -> None:
        """Ends with the guest, or when its time is up. show: is given each line as it comes, and
        None at the end."""
        began = time.monotonic()
        process = subprocess.Popen(
            self._command(debian, archive, adapter),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        timer = threading.Timer(TIMEOUT_S, process.kill)
        timer.start()
        try:
            for raw in process.stdout:
                line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x00]", "", raw.decode(errors="replace"))
                self.lines.append(line.rstrip())
                show(self.lines[-1])
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            self.seconds = time.monotonic() - began
            if not self.verdicts:
                show(f"no verdict from the guest after {self.seconds:.0f} s")
            show(None)

    def _command(self, debian: kernel.Kernel, archive: Path, adapter: Path) -> list[str]:
        script = Path(__file__).with_name("guest.sh")
        counts = self.only == COST
        append = (
            "console=ttyS0 quiet panic=-1 mitigations=off "
            f"sluice.script={script} sluice.modules={debian.modules} sluice.adapter={adapter} "
            f"sluice.python={sys.executable} "
            f"sluice.only={self.only} sluice.case={os.environ.get('CASE', '')}"
        )
        return [
            QEMU,
            *(COUNTING if counts else EMULATED),
            *("-cpu", CPU + (SIMPLE if counts else ""), "-m", "2G"),
            *("-nographic", "-no-reboot", "-nic", "none"),
            *("-kernel", str(debian.image), "-initrd", str(archive), "-append", append),
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]


def _run(guests: list[Guest], debian: kernel.Kernel, archive: Path, adapter: Path) -> None:
    """Side by side; the first one's console is shown as it comes, each other's after that."""
    with ThreadPoolExecutor(len(guests)) as pool:
        runs = []
        for guest in guests:
            shown: SimpleQueue[str | None] = SimpleQueue()
            run = pool.submit(guest.run, debian, archive, adapter, shown.put)
            runs.append((guest, shown, run))
        for guest, shown, run in runs:
            print(f"guest {guest.only or 'programs'}:", flush=True)
            for line in iter(shown.get, None):
                print(line, flush=True)
            run.result()


def main() -> int:
    reason = cannot()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    try:
        debian = kernel.get(BUILD)
        adapter = module.build(BUILD, debian)
        archive = BUILD / "initrd.cpio"
        archive.write_bytes(initrd.build(debian))
    except kernel.KernelError as error:
        print(error, file=sys.stderr)
        return 1
    # The guest could not keep what it compiles, and each process would compile it again.
    compileall = [sys.executable, "-m", "compileall", "-q", "appliance", "dataplane", "tests"]
    subprocess.run(compileall, cwd=ROOT, check=False)
    make = ["make", "--no-print-directory", "-s", "-C", "native", "guest", "SAN=none"]
    if subprocess.run([*make, f"BUILD={BUILD}/native"], cwd=ROOT, check=False).returncode != 0:
        return 1
    if sys.argv[1:] == ["prepare"]:
        return 0
    print(f"booting Debian's kernel {debian.release} ({debian.package})", flush=True)
    only = os.environ.get("T", "")
    guests = [Guest(only)] if only else [Guest(PROGRAMS), Guest(SITES)]
    began = time.monotonic()
    _run(guests, debian, archive, adapter)
    passed, failed = sum(each.passed for each in guests), sum(each.failed for each in guests)
    print(f"{passed} passed, {failed} failed in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
