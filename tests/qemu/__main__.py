"""Boots the guest, shows its console and takes its verdict: python -m tests.qemu.

Exit 0 when every test in the guest passed, 1 when one failed or no verdict came in time.
From the environment: T=engine runs one program, CASE=mesh its cases of that name; T=two_sites is
apart, for whole sites take longer to start there than all programs to run; T=cost too, for the
guest's clock then counts instructions. The processor is emulated, so that the guest is the same
everywhere.

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
from pathlib import Path

from . import initrd, kernel, module

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "qemu"
TIMEOUT_S = 600  # several times what an idle machine of two cores takes
QEMU = "qemu-system-x86_64"
COST = "cost"
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


def _command(guest: kernel.Kernel, archive: Path, adapter: Path) -> list[str]:
    script = Path(__file__).with_name("guest.sh")
    counts = os.environ.get("T") == COST
    append = (
        "console=ttyS0 quiet panic=-1 mitigations=off "
        f"sluice.script={script} sluice.modules={guest.modules} sluice.adapter={adapter} "
        f"sluice.python={sys.executable} "
        f"sluice.only={os.environ.get('T', '')} sluice.case={os.environ.get('CASE', '')}"
    )
    return [
        QEMU,
        *(COUNTING if counts else ("-accel", "tcg", "-smp", "2")),
        *("-cpu", CPU + (SIMPLE if counts else ""), "-m", "2G"),
        *("-nographic", "-no-reboot", "-nic", "none"),
        *("-kernel", str(guest.image), "-initrd", str(archive), "-append", append),
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ]


def _boot(command: list[str]) -> list[str]:
    """The console's lines, shown as they come. Ends with the guest, or when its time is up."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    timer = threading.Timer(TIMEOUT_S, process.kill)
    timer.start()
    lines = []
    try:
        for raw in process.stdout:
            line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x00]", "", raw.decode(errors="replace"))
            lines.append(line.rstrip())
            print(lines[-1], flush=True)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    return lines


def main() -> int:
    reason = cannot()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    try:
        guest = kernel.get(BUILD)
        adapter = module.build(BUILD, guest)
        archive = BUILD / "initrd.cpio"
        archive.write_bytes(initrd.build(guest))
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
    print(f"booting Debian's kernel {guest.release} ({guest.package})", flush=True)
    began = time.monotonic()
    lines = _boot(_command(guest, archive, adapter))
    verdicts = [line for line in lines if line.startswith("sluice-guest: ")]
    passed = sum(line.startswith(("ok ", "PASSED ")) for line in lines)
    failed = sum(line.startswith(("not ok ", "FAILED ", "ERROR ")) for line in lines)
    if verdicts != ["sluice-guest: verdict 0"] or passed == 0:
        failed = max(failed, 1)
        if not verdicts:
            print(f"no verdict from the guest after {time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {failed} failed in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
