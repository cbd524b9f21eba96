"""The host's key and what is signed with it, by the `openssl` command. The key stays in its file.

Argument lists hold names of files only; nothing secret is in argv or environment.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

from appliance.agent.state import write

TIMEOUT_S = 30
PROOF_PREFIX = b"sluice renew\0"
_CONFIG = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nO=sluice\n"


class KeyFault(Exception):
    """openssl is missing or failed: one line."""


def _openssl(*args: str, given: bytes = b"") -> bytes:
    try:
        run = subprocess.run(
            ("openssl", *args), input=given, capture_output=True, timeout=TIMEOUT_S, check=True
        )
    except FileNotFoundError:
        raise KeyFault("the openssl command is missing: install the package openssl") from None
    except subprocess.TimeoutExpired:
        raise KeyFault("the openssl command does not end") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise KeyFault(f"openssl {args[0]} failed: {lines[0]}") from error
    return run.stdout


def make(path: Path) -> None:
    """EC P-256, 0600; leaves one that is there alone."""
    if path.exists():
        return
    pem = _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    write(path, pem)


def csr(path: Path) -> bytes:
    """DER. It proves the key and asks for nothing."""
    args = ("req", "-new", "-sha256", "-config", "/dev/stdin", "-key", str(path))
    return _openssl(*args, "-outform", "DER", given=_CONFIG.encode())


def prove(path: Path, nonce: str, csr_der: bytes) -> str:
    """base64 of a signature over the nonce and the CSR: the key is here."""
    said = PROOF_PREFIX + bytes.fromhex(nonce) + hashlib.sha256(csr_der).digest()
    signature = _openssl("dgst", "-sha256", "-sign", str(path), given=said)
    return base64.b64encode(signature).decode("ascii")
