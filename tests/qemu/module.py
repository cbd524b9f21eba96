"""Builds the test adapter's module (tests/qemu/nic) for the guest's kernel, under build/qemu/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from . import kernel

SOURCE = Path(__file__).with_name("nic")
NAME = "sluice_nic"


def build(build: Path, guest: kernel.Kernel) -> Path:
    """The module, new if a source is. KernelError: what the compiler said."""
    tree = kernel.headers(build, guest)
    place = build / f"nic-{guest.release}"  # kbuild writes beside its sources
    place.mkdir(exist_ok=True)
    for source in SOURCE.iterdir():
        shutil.copy2(source, place)  # with its time, which make goes by
    # The types for BPF would need the whole kernel's.
    command = ["make", "-s", "-C", str(tree), f"M={place}", "CONFIG_DEBUG_INFO_BTF_MODULES="]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise kernel.KernelError(f"the test adapter does not build:\n{done.stdout}{done.stderr}")
    return place / f"{NAME}.ko"
