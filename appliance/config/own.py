"""The documents of sluice.dev/v1, for what Istio has no word for. Shapes only."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from appliance.config.field import (
    Account,
    Address,
    Count,
    Flag,
    PeriodMs,
    Port,
    Selector,
    Spec,
    Text,
    one_of,
)

INTERVAL_MIN_MS = 100  # between two checks of an endpoint


class Port_(Spec):
    port: Port
    target_port: Port | None = None  # on the endpoint; None = port
    protocol: Annotated[Text, one_of(tcp=None, tls=None, http=None, http2=None, grpc=None)] = "tcp"
    name: Annotated[Text, Field(max_length=63)] = ""


class Health(Spec):
    """Active check of each endpoint."""

    kind: Annotated[Text, one_of(tcp=None, http=None, grpc=None)] = "tcp"
    port: Port | None = None  # None = the endpoint's
    path: Annotated[Text, Field(pattern=r"^/[\x21-\x7e]*$")] = "/"
    interval: PeriodMs | None = None
    timeout: PeriodMs | None = None
    healthy_after: Annotated[Count, Field(ge=1, le=100)] = 1
    unhealthy_after: Annotated[Count, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _check(self) -> Health:
        if self.interval and self.interval.ms < INTERVAL_MIN_MS:
            raise ValueError(f"interval must be at least {INTERVAL_MIN_MS}ms")
        if self.timeout and not self.timeout.ms:
            raise ValueError("timeout must be at least 1ms")
        return self


class Service(Spec):
    """A service of this site. One that hosts registered is described further by it."""

    ports: Annotated[tuple[Port_, ...], Field(min_length=1, max_length=256)]
    service_account: Account | None = None  # None = what the hosts registered, else "default"
    selector: Selector | None = None  # hosts and WorkloadEntries of the namespace
    addresses: Annotated[tuple[Address, ...], Field(max_length=2)] = ()  # virtual; () = allocated
    export: Flag = True
    health: Health | None = None
    # What the service sees; transparent: the host's address, or ours for a peer's client.
    source_address: Annotated[Text, one_of(appliance=None, transparent=None, proxy=None)] = (
        "appliance"
    )


class Host(Spec):
    """An agentless host, bound to its addresses; `mac` and `interface` raise its grade."""

    addresses: Annotated[tuple[Address, ...], Field(min_length=1, max_length=64)]
    mac: Annotated[Text, Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")] | None = None
    interface: Annotated[Text, Field(min_length=1, max_length=15)] | None = None
    service_account: Account = "default"
