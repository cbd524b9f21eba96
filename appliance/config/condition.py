"""What an AuthorizationPolicy can ask of a connection: keys of `when`, patterns of text. Pure.

https://istio.io/latest/docs/reference/config/security/conditions/
"""

from __future__ import annotations

from appliance import address
from appliance.errors import InvalidInput
from appliance.identity import ID_BYTES_MAX, LABEL_MAX, is_account, is_label
from dataplane.snapshot import Field, Grade

GRADES = {"l3": Grade.L3, "l2": Grade.L2, "port": Grade.PORT, "key": Grade.KEY}
PORT_KEY = "destination.port"
FIELDS = {
    "source.ip": Field.IP,
    "remote.ip": Field.REMOTE_IP,
    "source.namespace": Field.NAMESPACE,
    "source.principal": Field.PRINCIPAL,
    "source.serviceAccount": Field.SERVICE_ACCOUNT,
    "connection.sni": Field.SNI,
    PORT_KEY: Field.PORT,
    "sluice.grade": Field.GRADE,  # at least this grade
}
# Behind a slash: each alias of our own trust domain has to fit before it.
PATH_MAX = ID_BYTES_MAX - LABEL_MAX - 1
_HTTP = ("request.headers[", "request.auth.", "request.host", "request.path", "request.method")
_LATER = {"destination.ip": "endpoints' addresses are not matched in this version: use ports or a "
          "selector"}  # fmt: skip


def is_http(key: str) -> bool:
    return key.startswith(_HTTP)


def key_problem(key: str) -> str | None:
    if key in FIELDS or is_http(key):
        return None
    return _LATER.get(key) or f"unknown key: write one of {', '.join(FIELDS)}"


def value_problem(field: Field, text: str) -> str | None:
    """What is wrong with a value of a field, or None."""
    if field in (Field.IP, Field.REMOTE_IP, Field.PORT):
        try:
            address.port(text) if field is Field.PORT else address.network(text)
        except InvalidInput as error:
            return str(error)
        return None
    if field is Field.GRADE:
        return None if text in GRADES else "write l3, l2, port or key"
    if field is Field.SERVICE_ACCOUNT:
        return _account_problem(text)
    return pattern_problem(text)


def pattern_problem(text: str) -> str | None:
    if not text:
        return "empty: write a value"
    if "*" in text[1:-1] or (len(text) > 1 and text[0] == "*" == text[-1]):
        return "a * stands at the start or at the end"
    if text.startswith("spiffe://"):
        return "write it without spiffe://"
    if not text.isprintable():
        return "a control character: remove it"
    _, _, path = text.partition("/")
    if len(text.encode()) > ID_BYTES_MAX or len(path.encode()) > PATH_MAX:
        return f"longer than any name: write at most {ID_BYTES_MAX} bytes, {PATH_MAX} behind a /"
    return None


def _account_problem(text: str) -> str | None:
    if "*" in text:
        return "wildcards are not for service accounts: use principals"
    namespace, slash, account = text.rpartition("/")
    if is_account(account) and (not slash or is_label(namespace)):
        return None
    return "no service account: write <service account> or <namespace>/<service account>"
