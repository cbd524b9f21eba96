"""Reaching the admin API from another machine: a folder with a key and what it needs beside it.

`sluice ca admin` makes such a folder. Owns its file names and the channel; the admin API decides
what the certificate may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from appliance.errors import InvalidInput

KEY, CHAIN, BUNDLE, SERVER = "key.pem", "chain.pem", "bundle.pem", "server"


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
