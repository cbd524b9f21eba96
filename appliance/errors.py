"""The errors that people see. Owns the family and its exit codes; prints nothing.

Each message is one line that says what is wrong and what to do. `code` is the gRPC status name
that carries it over the admin API, `exit_code` what the command line ends with.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """A problem somebody can act on."""

    code = "INTERNAL"
    exit_code = 1


class InvalidInput(ApplianceError):
    """What was given cannot be used: a document, an argument, a name."""

    code = "INVALID_ARGUMENT"
    exit_code = 2


class NotFound(ApplianceError):
    code = "NOT_FOUND"
    exit_code = 3


class Conflict(ApplianceError):
    """It exists already, or something else is under way (a pending confirm)."""

    code = "FAILED_PRECONDITION"
    exit_code = 4


class Denied(ApplianceError):
    """Not allowed: wrong user, wrong certificate, identity not approved, code not good."""

    code = "PERMISSION_DENIED"
    exit_code = 5


class Unavailable(ApplianceError):
    """A process or a peer does not answer."""

    code = "UNAVAILABLE"
    exit_code = 6


class LimitReached(ApplianceError):
    code = "RESOURCE_EXHAUSTED"
    exit_code = 7


BY_CODE: dict[str, type[ApplianceError]] = {
    cls.code: cls
    for cls in (ApplianceError, InvalidInput, NotFound, Conflict, Denied, Unavailable, LimitReached)
}
