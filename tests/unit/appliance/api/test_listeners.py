"""appliance.listeners: who can reach what."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from appliance.listeners import Listeners
from appliance.site import MetricsSettings
from tests.unit.appliance.sites import SITE


async def test_metrics_are_read_on_the_box_unless_the_site_says_more() -> None:
    asked: list[tuple[str, ...]] = []

    async def serve(addresses: Iterable[str], port: int) -> None:
        asked.append(tuple(addresses))

    served: Any = SimpleNamespace(metrics=SimpleNamespace(serve=serve, close=None))
    nothing: Any = None
    wide = SITE.spec.model_copy(
        update={"metrics": MetricsSettings(addresses=(ip_address("198.18.0.1"),))}
    )
    for spec in (SITE.spec, wide):
        site = SITE.model_copy(update={"spec": spec})
        await Listeners(site, nothing, nothing, nothing, served)._metrics()
    assert asked == [("127.0.0.1",), ("127.0.0.1", "198.18.0.1")]
