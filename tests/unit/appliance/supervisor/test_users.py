"""Which users the children may have."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from appliance.errors import InvalidInput
from appliance.site import Users
from appliance.supervisor.__main__ import refuse_root
from tests.unit.appliance.sites import SITE


def site_with(users: Users):
    spec = SITE.spec.model_copy(update={"users": users})
    return SITE.model_copy(update={"spec": spec})


def test_the_defaults_are_good() -> None:
    refuse_root(site_with(Users()))


@pytest.mark.parametrize("which", ["daemon", "ca", "dataplane", "admin_group"])
def test_none_is_root(which: str) -> None:
    with pytest.raises(InvalidInput, match="root"):
        refuse_root(site_with(Users(**{which: 0})))


@pytest.mark.parametrize("number", [6410, 6411, 6412])
def test_admins_share_no_process_group(number: int) -> None:
    with pytest.raises(InvalidInput, match="adminGroup"):
        refuse_root(site_with(Users(admin_group=number)))


def test_processes_do_not_share_a_user() -> None:
    with pytest.raises(ValidationError, match="a number each"):
        Users(ca=6410)
