"""Talks to the appliance's enrolment listener: join, renew, renew late, ask for configuration.

Blocking; the running agent calls it from a thread. Owns no policy: what the appliance answers is
checked for shape and kept.
"""

from __future__ import annotations

import base64
import time
from typing import Any

from appliance.agent import key
from appliance.agent.state import Directory, State, StateError, empty
from appliance.enroll import code, pinned


def join(directory: Directory, address: str, given: code.Code) -> State:
    """Makes the key if there is none, gets the first leaf and keeps all. Raises StateError,
    key.KeyFault, pinned.Refused, pinned.Unreachable, ValueError."""
    if given.purpose != code.HOST:
        raise ValueError("this code is for a peer site, not for a host")
    host, port = pinned.split_address(address, 15012)
    site = pinned.fetch_site(host, port, given.pin)
    directory.make()
    key.make(directory.key)
    csr = base64.b64encode(key.csr(directory.key)).decode("ascii")
    answer = pinned.post(site, "/v1/join", {"secret": given.secret.hex(), "csr": csr})
    return _keep(directory, empty(host, port), answer)


def renew(directory: Directory, state: State) -> State:
    """By the current leaf; when it ran out, by proof of the enrolled key."""
    csr_der = key.csr(directory.key)
    body = {"csr": base64.b64encode(csr_der).decode("ascii")}
    if time.time() < state.not_after:
        answer = _post(directory, state, "/v1/renew", body)
    else:
        site = _site(state)
        nonce = pinned.post(site, "/v1/nonce", {}).get("nonce")
        if not isinstance(nonce, str) or len(nonce) != 80:
            raise StateError("the appliance's nonce makes no sense")
        body = {**body, "nonce": nonce, "signature": key.prove(directory.key, nonce, csr_der)}
        answer = pinned.post(site, "/v1/renew", body)
    return _keep(directory, state, answer)


def refresh(directory: Directory, state: State) -> State:
    """What the appliance wants of this host now."""
    answer = _post(directory, state, "/v1/config", {})
    new = state.configured(_object(answer.get("config")))
    if new != state:
        directory.save(new, None)
    return new


def _site(state: State) -> pinned.Site:
    return pinned.Site(state.enrol_host, state.enrol_port, state.bundle_pem, state.trust_domain)


def _post(directory: Directory, state: State, path: str, body: dict[str, Any]) -> dict[str, Any]:
    files = (str(directory.leaf), str(directory.key))
    return pinned.post(_site(state), path, body, *files)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StateError("the appliance's answer makes no sense: no configuration in it")
    return value


def _keep(directory: Directory, state: State, answer: dict[str, Any]) -> State:
    chain, not_after, now = answer.get("chain_pem"), answer.get("not_after"), answer.get("now")
    if (
        not isinstance(chain, str)
        or not chain.startswith("-----BEGIN CERTIFICATE-----")
        or not isinstance(not_after, int)
        or not isinstance(now, int)
        or not now < not_after <= now + 31 * 86_400
    ):
        raise StateError("the appliance's answer makes no sense: no certificate in it")
    new = state.configured(_object(answer.get("config"))).renewed(not_after, now)
    directory.save(new, chain)
    return new
