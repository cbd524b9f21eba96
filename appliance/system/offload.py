"""The site's network devices and their profiles: status, plan, apply, revert.

Owns which devices are the site's and the order of changes; what a change would be is offload_plan's
to say, making it the root helper's. Every value is noted before it is changed, read back after, and
put back by `revert`, also after a restart. It is set again on a device that appears, as all do at a
reboot; what somebody else has changed meanwhile is told and left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import ApplianceError, NotFound
from appliance.registry.nic_settings import Changed, NicSettings
from appliance.site import Site
from appliance.system import links, offload_device
from appliance.system.offload_devlink import NOTHING, Cards, Devlink
from appliance.system.offload_plan import Outcome, Step, plan, remarks
from appliance.system.offload_profile import Profile, choose, known
from appliance.system.offload_settings import INTERRUPTS, IRQ, Device, Value, shown
from appliance.tasks import Tasks

log = logging.getLogger(__name__)

NICS_MAX = 64
ROOT = Path("/")


class Supervisor(Protocol):
    async def call(
        self, verb: str, timeout_s: float = 120.0, **arguments: Any
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Nic:
    device: Device
    serves: tuple[str, ...]  # "hosts", "mesh"
    model: str
    profile: Profile
    remarks: tuple[str, ...]
    devlink: Devlink = NOTHING


class Offload:
    def __init__(
        self,
        site: Site,
        prefer: Callable[[], str],
        supervisor: Supervisor,
        kept: NicSettings,
        record: Callable[[str, str, str], None],
        profiles: Callable[[], Sequence[Profile]] = known,
    ) -> None:
        """prefer: as the OffloadProfile says now; record: who, what and details, to the audit."""
        self._record = record
        self._site, self._prefer, self._supervisor = site, prefer, supervisor
        self._kept, self._profiles = kept, profiles
        self._lock = asyncio.Lock()
        self._tasks = Tasks()

    @property
    def prefer(self) -> str:
        """As the OffloadProfile says."""
        return self._prefer()

    async def nics(self) -> tuple[Nic, ...]:
        """Those that serve hosts or the mesh, and what is below them. Raises InvalidInput when a
        profile's file cannot be read."""
        present = await links.links()
        wanted: dict[str, list[str]] = {}
        for name in self._site.spec.hosts.interfaces:
            wanted.setdefault(name, []).append("hosts")
        for link in present:
            if set(link.addresses) & set(self._site.spec.mesh.addresses):
                wanted.setdefault(link.name, []).append("mesh")
        return await asyncio.to_thread(self._nics, wanted)

    def _nics(self, wanted: Mapping[str, Sequence[str]]) -> tuple[Nic, ...]:
        cpus, cards = worker_cpus(self._site), Cards.read()
        found: dict[str, Nic] = {}
        for top, serves in wanted.items():
            for name in _with_lower(top):
                if name in found:
                    both = tuple(dict.fromkeys((*found[name].serves, *serves)))
                    found[name] = replace(found[name], serves=both)
                elif len(found) < NICS_MAX and (device := _read(name)) is not None:
                    chosen = choose(self._profiles(), device)
                    if chosen is not None:
                        profile, model = chosen
                        said = remarks(device, cpus)
                        told = cards.of(name, device.bus)
                        found[name] = Nic(device, tuple(serves), model, profile, said, told)
        return tuple(found[name] for name in sorted(found))

    async def plan(self) -> tuple[Step, ...]:
        return self._planned(await self.nics())

    def _planned(self, nics: Sequence[Nic]) -> tuple[Step, ...]:
        prefer, cpus = self._prefer(), worker_cpus(self._site)
        return tuple(step for nic in nics for step in plan(nic.device, nic.profile, prefer, cpus))

    async def apply(self) -> tuple[Step, ...]:
        """Every step with what became of it. After a fault of the root helper the rest is not
        tried; what was changed until then is in the answer and can be reverted. Goes on to its end
        when the caller goes away."""
        return await self._tasks.finish(self._apply(), "apply offload")

    async def _apply(self) -> tuple[Step, ...]:
        async with self._lock:
            done: list[Step] = []
            failed = ""
            for irqs in (False, True):  # these last: another number of queues brings others
                nics = await self.nics()
                devices = {nic.device.name: nic.device for nic in nics}
                for step in self._planned(nics):
                    if step.setting.startswith((IRQ, INTERRUPTS)) != irqs:
                        continue
                    if step.outcome is not Outcome.CHANGE:
                        done.append(step)
                    elif failed:
                        done.append(replace(step, outcome=Outcome.UNTRIED, text=failed))
                    else:
                        try:
                            identity = _identity(devices[step.interface])
                            done.append(await self._change(step, identity))
                        except ApplianceError as error:
                            failed = f"the one before it failed: {error}"
                            done.append(await self._after_fault(step, str(error)))
            return tuple(done)

    async def _change(self, step: Step, device: str) -> Step:
        assert step.old is not None
        earlier = {(each.interface, each.setting) for each in self._kept.changed()}
        change = Changed(step.interface, device, step.setting, step.old, step.new)
        self._kept.note(change)
        answer = await self._set(step.interface, step.setting, step.new)
        after = answer["after"]
        if answer["refused"]:
            if after == step.old and (step.interface, step.setting) not in earlier:
                self._kept.forget(step.interface, step.setting)  # nothing was changed
            elif after is not None:
                self._kept.note(replace(change, after=after))
            text = f"{answer['refused']}; it is {shown(step.setting, after)}"
            return replace(step, outcome=Outcome.REFUSED, text=text)
        return replace(step, outcome=Outcome.CHANGED)

    async def _after_fault(self, step: Step, error: str) -> Step:
        """What the device has now says whether it was changed."""
        device = await asyncio.to_thread(_read, step.interface)
        if device is not None and device.value(step.setting) == step.new:
            return replace(step, outcome=Outcome.CHANGED, text=error)
        return replace(step, outcome=Outcome.REFUSED, text=error)

    async def revert(self) -> tuple[Step, ...]:
        """Newest first. What could not be put back stays noted, so that it can be tried again."""
        return await self._tasks.finish(self._revert(), "revert offload")

    async def close(self) -> None:
        """Waits for a change that is under way: the lock is free after it."""
        async with self._lock:
            await self._tasks.close()

    async def _revert(self) -> tuple[Step, ...]:
        async with self._lock:
            return tuple([await self._put_back(each) for each in self._kept.changed()])

    async def _put_back(self, change: Changed) -> Step:
        def step(outcome: Outcome, text: str = "", now: Value | None = None) -> Step:
            return Step(change.interface, change.setting, now, change.before, outcome, text)

        device = await asyncio.to_thread(_find, change)
        if device is None:
            self._kept.forget(change.interface, change.setting)
            return step(Outcome.GOOD, "the device is gone, and its settings with it")
        now = device.value(change.setting)
        if now == change.before or now is None:
            self._kept.forget(change.interface, change.setting)
            return step(Outcome.GOOD, "it was so already", now)
        try:
            answer = await self._set(device.name, change.setting, change.before)
        except ApplianceError as error:
            return step(Outcome.REFUSED, str(error), now)
        if answer["refused"]:
            return step(Outcome.REFUSED, answer["refused"], now)
        self._kept.forget(change.interface, change.setting)
        renamed = f"it is named {device.name} now" if device.name != change.interface else ""
        return step(Outcome.CHANGED, renamed, now)

    async def appeared(self, indices: frozenset[int]) -> None:
        """Interfaces that were not there before: each gets what was set on its device."""
        await self._tasks.finish(self.restore(indices), "restore offload")

    async def switched_on(self, indices: frozenset[int]) -> None:
        """Only now many drivers name their interrupts: each is served again where it was placed."""
        await self._tasks.finish(self.restore(indices, irqs=True), "restore offload")

    async def restore(self, indices: frozenset[int], irqs: bool = False) -> tuple[Step, ...]:
        """What was set on these and is not so, the oldest first; what is refused stays noted.
        Either where interrupts are served, or all else."""
        done = []
        async with self._lock:
            for change in reversed(self._kept.changed()):
                if change.setting.startswith(IRQ) != irqs:
                    continue
                device = await asyncio.to_thread(_find, change)
                if device is None and _index(change.interface) in indices:
                    why = "another device has that name now: `sluice offload revert` forgets it"
                    done.append(_restored(change, None, Outcome.REFUSED, why))
                elif device is not None and _index(device.name) in indices:
                    now = device.value(change.setting)
                    if now != change.after:
                        done.append(await self._set_again(change, device, now))
        for step in done:
            values = (shown(step.setting, each) for each in (step.old, step.new))
            told = f"{step.interface} {step.setting} {' to '.join(values)}"
            if step.outcome is Outcome.CHANGED:
                log.info("set again: %s", told)
            else:
                log.warning("not set again: %s: %s", told, step.text)
                told += f": {step.outcome}: {step.text}"
            self._record("daemon", "restore offload", told)
        return tuple(done)

    async def _set_again(self, change: Changed, device: Device, now: Value | None) -> Step:
        if now is None:
            return _restored(change, now, Outcome.REFUSED, "the device does not have it any more")
        try:
            answer = await self._set(device.name, change.setting, change.after)
        except ApplianceError as error:
            found = await asyncio.to_thread(_find, change)
            if found is not None and found.name != device.name:  # renamed in between, as at a boot
                return await self._set_again(change, found, found.value(change.setting))
            return _restored(change, now, Outcome.REFUSED, str(error))
        outcome = Outcome.REFUSED if answer["refused"] else Outcome.CHANGED
        return _restored(change, now, outcome, answer["refused"])

    async def drifted(self) -> tuple[str, ...]:
        """What was set and is not so any more: a reboot forgets it, and so may others."""
        changed = self._kept.changed()
        return await asyncio.to_thread(lambda: tuple(_drifted(changed)))

    async def _set(self, interface: str, setting: str, value: Value) -> dict[str, Any]:
        if setting.startswith(IRQ):
            irq = setting.removeprefix(IRQ)
            return await self._supervisor.call("irq-set", interface=interface, irq=irq, cpus=value)
        return await self._supervisor.call(
            "nic-set", interface=interface, setting=setting, value=value
        )


def _restored(change: Changed, now: Value | None, outcome: Outcome, text: str) -> Step:
    return Step(change.interface, change.setting, now, change.after, outcome, text)


def worker_cpus(site: Site) -> tuple[int, ...]:
    """The processor of each worker: as the data plane pins them."""
    allowed = sorted(os.sched_getaffinity(0))
    workers = site.spec.dataplane.workers or min(len(allowed), 64)
    return tuple(allowed[number % len(allowed)] for number in range(workers))


def _drifted(changed: Sequence[Changed]) -> Iterator[str]:
    for change in changed:
        device = _find(change)
        held = device.value(change.setting) if device is not None else None
        if held is not None and held != change.after:
            now, was = (shown(change.setting, each) for each in (held, change.after))
            yield f"{change.interface} {change.setting} is {now}, was set to {was}"


def _identity(device: Device) -> str:
    return f"{device.driver} {device.bus}".strip()


def _find(change: Changed) -> Device | None:
    """By its name, or by its place on the bus when it was renamed."""
    device = _read(change.interface)
    if device is not None and _identity(device) == change.device:
        return device
    if " " not in change.device:  # on no bus
        return None
    others = [_read(name) for name in os.listdir(ROOT / "sys/class/net")]
    same = [other for other in others if other and _identity(other) == change.device]
    return same[0] if len(same) == 1 else None


def _with_lower(name: str) -> list[str]:
    """The interface and all that it stands on: a VLAN's device, a bond's members."""
    found = [name]
    for each in found:
        folder = ROOT / "sys/class/net" / each
        found += sorted(
            lower
            for path in folder.glob("lower_*")
            if (lower := path.name.removeprefix("lower_")) not in found
        )[: NICS_MAX - len(found)]
    return found


def _index(name: str) -> int:
    """0 = there is no such interface."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _read(name: str) -> Device | None:
    try:
        return offload_device.read(name)
    except (NotFound, OSError):
        return None
