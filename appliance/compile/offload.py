"""The site's OffloadProfile as the data plane has it. Pure.

TLS 1.2 comes from minVersion alone: whatever loads, nothing is weaker than that says.
"""

from __future__ import annotations

from appliance.config.model import Model
from appliance.config.offload import NAME, TLS12, OffloadProfile
from dataplane.snapshot import Ciphers, Offload, Prefer, Tls12

_PREFER = {
    "auto": Prefer.AUTO,
    "user": Prefer.USER,
    "openssl": Prefer.OPENSSL,
    "ktls": Prefer.KTLS,
    "nic": Prefer.NIC,
}
_CIPHERS = {
    "AES_128_GCM": Ciphers.AES_128_GCM,
    "AES_256_GCM": Ciphers.AES_256_GCM,
    "CHACHA20_POLY1305": Ciphers.CHACHA20,
}
_AES = Ciphers.AES_128_GCM | Ciphers.AES_256_GCM


def offload(model: Model) -> Offload | None:
    """None = there is no profile."""
    spec = profile(model)
    if spec is None:
        return None
    ciphers = Ciphers(0)
    for name in spec.ciphers:
        ciphers |= _CIPHERS[name]
    tls12 = Tls12.NEVER
    if spec.tls.min_version == TLS12 and ciphers & _AES:
        tls12 = Tls12.PREFER if spec.prefer == "nic" else Tls12.ALLOW
    return Offload(_PREFER[spec.prefer], tls12, ciphers, spec.minimum_bytes or 0)


def profile(model: Model) -> OffloadProfile | None:
    for doc in model.of(OffloadProfile):
        if (doc.namespace, doc.name) == (NAME, NAME):
            return doc.spec
    return None
