"""Virtual addresses and endpoint set numbers: given once, kept by the site's state.

Owns their tables. An address that was freed goes to no other service within a day (hosts and
resolvers remember names); a service that comes back gets its own again. Set numbers are never
given twice. What only peers offer gets half of a range at most: whatever they export, there are
addresses for the site's own services.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from appliance.errors import LimitReached
from appliance.registry.store import Store
from appliance.site import Vip
from dataplane.snapshot import Address

REUSE_AFTER_S = 86_400
SET_MAX = 0x7FFFFFFE
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Held:
    key: str
    family: int
    number: int  # in the network, from 1
    freed: int | None  # UNIX seconds


@dataclass(frozen=True, slots=True)
class Allocated:
    vips: Mapping[str, tuple[Address, ...]]
    sets: Mapping[str, int]


class Allocator:
    def __init__(self, store: Store, vip: Vip) -> None:
        self._store = store
        self._networks: tuple[Network, ...] = (vip.ipv4, vip.ipv6)
        self._drop_foreign()
        self._held = [
            Held(row["key"], row["family"], row["number"], row["freed"])
            for row in store.all("SELECT key, family, number, freed FROM vips")
        ]
        self._sets = {row["key"]: int(row["id"]) for row in store.all("SELECT id, key FROM sets")}

    def _drop_foreign(self) -> None:
        """Addresses of a range that the site had before."""
        for row in self._store.all("SELECT address FROM vips"):
            address = ip_address(row["address"])
            if not any(address in network for network in self._networks):
                self._store.run("DELETE FROM vips WHERE address = ?", (row["address"],))

    def ensure(
        self,
        vip_keys: Iterable[str],
        set_keys: Iterable[str],
        taken: Collection[Address],
        now: int,
        *,
        keep: bool,
        guests: Collection[str] = (),
    ) -> Allocated:
        """What these keys have; gives out what is missing. keep=False: only says what would be.

        taken: addresses that documents ask for themselves. guests: keys that only peers offer;
        they go without when their part is used up. Raises LimitReached.
        """
        vip_keys, set_keys = tuple(vip_keys), tuple(set_keys)
        held, sets = self._held, self._sets
        new_sets = [key for key in set_keys if key not in sets]
        plan = [
            plan_vips(vip_keys, held, network, taken, now, guests) for network in self._networks
        ]
        if keep:
            self._keep([each for one in plan for each in one], new_sets, now)
            held, sets = self._held, self._sets
        else:
            first = max(sets.values(), default=0) + 1
            sets = {**sets, **{key: first + n for n, key in enumerate(new_sets)}}
            held = _changed(held, [each for one in plan for each in one])
        if max(sets.values(), default=0) > SET_MAX:
            raise LimitReached("no endpoint set number is left: this site's state is worn out")
        found = {(each.family, each.key): each.number for each in held}
        vips = {
            key: tuple(
                network[found[network.version, key]]
                for network in self._networks
                if (network.version, key) in found
            )
            for key in vip_keys
        }
        return Allocated(vips, {key: sets[key] for key in set_keys})

    def _keep(self, changed: list[Held], new_sets: list[str], now: int) -> None:
        if not changed and not new_sets:
            return
        networks = {int(network.version): network for network in self._networks}
        with self._store.transaction():
            for each in changed:
                address = str(networks[each.family][each.number])
                self._store.run(
                    "DELETE FROM vips WHERE address = ? OR (key = ? AND family = ?)",
                    (address, each.key, each.family),
                )
                self._store.run(
                    "INSERT INTO vips VALUES (?, ?, ?, ?, NULL)",
                    (address, each.family, each.number, each.key),
                )
            rows = [
                (key, self._store.run("INSERT INTO sets (key) VALUES (?)", (key,)).lastrowid)
                for key in new_sets
            ]
        self._held = _changed(self._held, changed)
        self._sets = {**self._sets, **{key: int(number or 0) for key, number in rows}}

    def release(self, vip_keys: Collection[str], set_keys: Collection[str], now: int) -> None:
        """All keys but these are no longer in use."""
        gone_vips = {h.key for h in self._held if h.freed is None and h.key not in vip_keys}
        gone_sets = [key for key in self._sets if key not in set_keys]
        if not gone_vips and not gone_sets:
            return
        with self._store.transaction():
            self._store.run_each(
                "UPDATE vips SET freed = ? WHERE key = ?", ((now, key) for key in gone_vips)
            )
            self._store.run_each("DELETE FROM sets WHERE key = ?", ((key,) for key in gone_sets))
        self._held = [
            Held(h.key, h.family, h.number, now) if h.key in gone_vips else h for h in self._held
        ]
        self._sets = {key: number for key, number in self._sets.items() if key in set_keys}


def _changed(held: Iterable[Held], changed: list[Held]) -> list[Held]:
    places = {(each.family, each.number) for each in changed}
    keys = {(each.family, each.key) for each in changed}
    stay = (h for h in held if (h.family, h.number) not in places and (h.family, h.key) not in keys)
    return [*stay, *changed]


def plan_vips(
    keys: Iterable[str],
    held: Iterable[Held],
    network: Network,
    taken: Collection[Address],
    now: int,
    guests: Collection[str] = (),
) -> list[Held]:
    """The rows to write so that each key has an address of the network. Pure."""
    own = {each.key: each for each in held if each.family == network.version}
    used = {each.number for each in own.values() if not _forgotten(each, now)}
    last = network.num_addresses - (2 if network.version == 4 else 1)  # no broadcast address
    free = (n for n in range(1, last + 1) if n not in used and network[n] not in taken)
    plan = []
    for key in sorted(keys, key=lambda key: key in guests):
        have = own.get(key)
        if have is not None and have.freed is None:
            continue
        mine = have is not None and not _forgotten(have, now) and network[have.number] not in taken
        if key in guests and not mine and len(used) >= last // 2:
            continue
        number = have.number if have is not None and mine else next(free, None)
        if number is None:
            raise LimitReached(
                f"the virtual addresses of {network} are used up (freed ones rest for a day): set "
                "a larger vip range in the Site document"
            )
        used.add(number)
        plan.append(Held(key, network.version, number, None))
    return plan


def _forgotten(held: Held, now: int) -> bool:
    return held.freed is not None and now - held.freed >= REUSE_AFTER_S
