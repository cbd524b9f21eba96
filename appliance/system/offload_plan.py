"""What a profile would change on a device, and what is worth saying of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from appliance.system.offload_profile import Profile, Wish
from appliance.system.offload_settings import (
    INTERRUPTS,
    IRQ,
    QUEUES,
    Device,
    Setting,
    Value,
    cpu_list,
    shown,
)


class Outcome(StrEnum):
    GOOD = "good"  # is so already
    CHANGE = "change"  # would be set
    CHANGED = "changed"  # was set and read back
    UNASKED = "unasked"  # only with another OffloadProfile
    CANNOT = "cannot"  # text says why
    REFUSED = "refused"  # it was tried, and text says what the device said
    UNTRIED = "untried"  # one before it failed


@dataclass(frozen=True, slots=True)
class Step:
    interface: str
    setting: str
    old: Value | None  # None = the device does not have it
    new: Value
    outcome: Outcome
    text: str = ""
    source: str = ""


def plan(device: Device, profile: Profile, prefer: str, cpus: Sequence[int]) -> tuple[Step, ...]:
    """prefer: as the OffloadProfile says; cpus: each worker's processor."""
    return tuple(
        step
        for wish in profile.settings
        for step in (
            _interrupts(device, wish, cpus)
            if wish.set == INTERRUPTS
            else (_step(device, wish, prefer, len(cpus)),)
        )
    )


def _interrupts(device: Device, wish: Wish, cpus: Sequence[int]) -> Iterator[Step]:
    """One a queue: a receive and a send queue of one number have the same worker's processor."""
    irqs = {irq.name: irq for irq in reversed(device.irqs) if irq.queue is not None}
    for irq in sorted(irqs.values(), key=lambda each: each.number):
        assert irq.queue is not None
        new = str(cpus[irq.queue % len(cpus)])
        step = Step(device.name, IRQ + irq.name, irq.cpus or None, new, Outcome.CHANGE, wish.why)
        if not irq.cpus:
            step = replace(step, outcome=Outcome.CANNOT, text="where it is served is not shown")
        elif cpu_list(irq.cpus) == cpu_list(new):
            step = replace(step, outcome=Outcome.GOOD, text="")
        yield replace(step, source=wish.source)
    if not irqs:
        text = "no interrupt of its queues is shown to this system"
        yield Step(device.name, INTERRUPTS, None, "workers", Outcome.CANNOT, text, wish.source)


def _step(device: Device, wish: Wish, prefer: str, workers: int) -> Step:
    held = device.settings.get(wish.set)
    new = _wanted(wish, held, workers)
    old = held.value if held is not None else None

    def step(outcome: Outcome, text: str) -> Step:
        return Step(device.name, wish.set, old, new, outcome, text, wish.source)

    if wish.when == "nic" and prefer != "nic":
        return step(Outcome.UNASKED, f"only with prefer: nic; the site's is {prefer}")
    if held is None:
        return step(Outcome.CANNOT, "the device does not have it")
    if held.value == new:
        least = workers if wish.to == "workers" else wish.to
        short = not isinstance(wish.to, bool) and new < int(least)
        return step(Outcome.GOOD, f"the device has {new} at most" if short else "")
    if held.fixed:
        return step(Outcome.CANNOT, f"fixed {shown(wish.set, held.value)} by the driver")
    return step(Outcome.CHANGE, wish.why)


def _wanted(wish: Wish, held: Setting | None, workers: int) -> int:
    if isinstance(wish.to, bool):
        return int(wish.to)
    least = workers if wish.to == "workers" else int(wish.to)
    return max(held.value, min(least, held.most)) if held is not None else least


def remarks(device: Device, cpus: Sequence[int]) -> tuple[str, ...]:
    """Queues and interrupts against the processors that workers are pinned to."""
    return tuple(_remarks(device, cpus))


def _remarks(device: Device, cpus: Sequence[int]) -> Iterator[str]:
    held = device.settings
    counts = [held[name].value for name in QUEUES if name in held and name != "queues.tx"]
    queues = sum(counts)
    if counts and queues < len(cpus):
        yield (
            f"{queues} receive queue{'s' if queues > 1 else ''} for {len(cpus)} workers: what "
            "arrives is sorted on fewer processors than work on it"
        )
    if device.irqs:
        served = {cpu for irq in device.irqs for cpu in cpu_list(irq.cpus)}
        if served and not served & set(cpus):
            yield (
                "no interrupt of it is served where a worker is: `sluice offload plan` says what "
                "could be"
            )
    elif device.pci_id:
        yield "its interrupts are not shown to this system"
    else:
        yield "it has no interrupts of its own"
