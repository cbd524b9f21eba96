"""`sluice offload …`: who seals mesh records, and what the network cards do for us."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from appliance.api._gen import admin_pb2 as pb
from appliance.api.text import shown
from appliance.cli.context import Context
from appliance.cli.output import Columns, console, format_option, plain, show_data, show_list

STEPS: Columns = {
    "interface": lambda s: s.interface,
    "setting": lambda s: s.setting,
    "old": lambda s: s.old,
    "new": lambda s: s.new,
    "outcome": lambda s: s.outcome,
    "why": lambda s: s.text or "-",
    "source": lambda s: s.source or "-",
}


@click.group()
def offload() -> None:
    """Kernel TLS and network cards: what there is, what is used, what could be."""


@offload.command("status")
@format_option
@click.pass_obj
def offload_status(context: Context, fmt: str) -> None:
    """Whose records TLS legs have and why; each network card of the site."""
    reply = context.call(lambda client: client.offload())
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    _say(f"Profile: {_profile(reply)}")
    legs = sum(each.legs for each in reply.layers)
    _say(f"TLS legs: {legs}; by layer: {_counts(reply.layers)}")
    _say(f"  by reason (none: where the profile would have it): {_counts(reply.reasons)}")
    cpus = " ".join(map(str, reply.worker_cpus))
    _say(f"Workers: {len(reply.worker_cpus)}, on processors {cpus}")
    for nic in reply.nics:
        _nic(nic)
    for each in reply.drifted:
        _say(f"Not so any more: {each}: run `sluice offload apply`")


def _say(text: str) -> None:
    console.print(shown(text), markup=False, soft_wrap=True)


def _profile(reply: pb.OffloadStatus) -> str:
    if not reply.prefer:
        return "none: our own code seals, TLS 1.3 only"
    least = f", from {reply.minimum_bytes} bytes on" if reply.minimum_bytes else ""
    return (
        f"prefer {reply.prefer}{least}, TLS {reply.min_version} or better, "
        f"{' '.join(reply.ciphers)}"
    )


def _counts(counts: Sequence[pb.LegCount]) -> str:
    return ", ".join(f"{each.name} {each.legs}" for each in counts if each.legs) or "none yet"


def _nic(nic: pb.Nic) -> None:
    place = " ".join(part for part in (nic.pci_id, nic.bus) if part)
    _say(f"\n{nic.name} ({', '.join(nic.serves)}): {nic.model}{f' [{place}]' if place else ''}")
    _say(f"  driver {nic.driver or 'none'}, firmware {nic.firmware or 'not told'}, "
         f"profile {nic.profile}")  # fmt: skip
    on = [each.name for each in nic.settings if each.shown == "on"]
    off = [each.name for each in nic.settings if each.shown == "off" and not each.fixed]
    lacks = [each.name for each in nic.settings if each.shown == "off" and each.fixed]
    for heading, names in (("on", on), ("off", off), ("fixed off", lacks)):
        if names:
            _say(f"  {heading}: {' '.join(names)}")
    numbers = [each for each in nic.settings if each.shown not in ("on", "off")]
    for each in numbers:
        _say(f"  {each.name}: {each.value} of {each.most}")
    for irq in nic.irqs:
        _say(f"  interrupt {irq.number} {irq.name}: processors {irq.cpus}")
    _devlink(nic.devlink)
    for remark in nic.remarks:
        _say(f"  {remark}")
    for fact in nic.facts:
        _say(f"  known: {fact.what} ({fact.source})")


def _devlink(told: pb.Devlink) -> None:
    if told.handle:
        _say(f"  devlink {told.handle}")
    for version in told.versions:
        _say(f"    {version.kind} {version.name}: {version.value}")
    for parameter in told.parameters:
        _say(f"    parameter {parameter.name} ({parameter.mode}): {parameter.value}")
    for remark in told.remarks:
        _say(f"  {remark}")


@offload.command("plan")
@format_option
@click.pass_obj
def offload_plan(context: Context, fmt: str) -> None:
    """Say what `apply` would change, old to new, and what cannot be."""
    show_list(context.call(lambda client: client.plan_offload()), STEPS, fmt, "No network card.")


@offload.command("apply")
@format_option
@click.pass_obj
def offload_apply(context: Context, fmt: str) -> None:
    """Set the cards as their profiles say; read back; say what they refused."""
    _done(context.call(lambda client: client.apply_offload()), fmt, "No network card.")


@offload.command("revert")
@format_option
@click.pass_obj
def offload_revert(context: Context, fmt: str) -> None:
    """Put back what was there before the first `apply`."""
    _done(context.call(lambda client: client.revert_offload()), fmt, "Nothing to put back.")


def _done(steps: Sequence[pb.OffloadStep], fmt: str, empty: str) -> None:
    """Exit code 1 when something that was tried did not come to be."""
    show_list(steps, STEPS, fmt, empty)
    if any(step.outcome in ("refused", "untried") for step in steps):
        sys.exit(1)
