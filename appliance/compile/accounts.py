"""Which service accounts documents name: what an admin who applies them means to approve. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from appliance.compile.services import DEFAULT_ACCOUNT
from appliance.config.model import Model


def accounts(model: Model) -> frozenset[tuple[str, str]]:
    """(namespace, service account) of each workload that a document brings, by its own text.

    A document that names none means the namespace's default account.
    """
    found = set()
    for document in model.documents:
        found.add((document.namespace, DEFAULT_ACCOUNT))
        found |= {(document.namespace, name) for name in _named(document.spec)}
    return frozenset(found)


def _named(part: Any) -> set[str]:
    found: set[str] = set()
    todo = [part]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseModel):
            for field, value in each:
                if field == "service_account":
                    found |= {value} if value else set()
                elif isinstance(value, BaseModel | tuple | list):
                    todo.append(value)
        elif isinstance(each, tuple | list):
            todo += each
    return found
