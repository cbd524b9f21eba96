"""Reaching the admin API from another machine: a folder with a key and what it needs beside it.

`sluice ca admin` makes such a folder. Owns its file names and the channel; the admin API decides
what the certificate may do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from appliance.ca.leaf import read
from appliance.errors import Conflict, Denied, InvalidInput

KEY, CHAIN, BUNDLE, SERVER = "key.pem", "chain.pem", "bundle.pem", "server"
_FILES = frozenset((KEY, CHAIN, BUNDLE, SERVER))


@dataclass(frozen=True, slots=True)
class Remote:
    address: str  # host:port of the appliance's admin listener
    credential: Path

    def channel(self, options: tuple[tuple[str, int], ...]) -> grpc.aio.Channel:
        """mTLS 1.3. The appliance is known by the name its own leaf bears, not by its address.

        Raises InvalidInput.
        """
        try:
            held = {file: (self.credential / file).read_bytes() for file in (KEY, CHAIN, BUNDLE)}
            server = (self.credential / SERVER).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"{self.credential}: {error}: make it on the box with `sluice ca admin`"
            ) from error
        credentials = grpc.ssl_channel_credentials(held[BUNDLE], held[KEY], held[CHAIN])
        named = (*options, ("grpc.ssl_target_name_override", server))
        return grpc.aio.secure_channel(self.address, credentials, options=named)


def make_folder(folder: Path, identity: str) -> bool:
    """Makes the folder for a credential of identity. Returns False when it holds one already,
    which may be replaced. Raises Conflict when it holds anything else."""
    try:
        folder.mkdir(mode=0o700)
        return True
    except FileExistsError:
        pass
    held = {each.name for each in folder.iterdir()} if folder.is_dir() else {""}
    if not held <= _FILES:
        raise Conflict(f"{folder} holds other things: name a folder that does not exist yet")
    if CHAIN in held:
        try:
            known = str(read((folder / CHAIN).read_bytes()).spiffe_id)
        except Denied as error:
            raise Conflict(f"{folder / CHAIN}: {error}: name another folder") from error
        if known != identity:
            raise Conflict(f"{folder} holds the certificate of {known}: name another folder")
    folder.chmod(0o700)
    return not held


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Each file is the old one or the new one. The key comes last: none is without its
    certificate for longer than a moment."""
    for name in sorted(texts, key=lambda name: name == KEY):
        new = folder / f".{name}.new"
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(texts[name])
        new.rename(folder / name)
