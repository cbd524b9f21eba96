"""NICs, steps and the ledger as messages of the admin API. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.api._gen import admin_pb2 as pb
from appliance.config.offload import OffloadProfile
from appliance.observe.ledger import Ledger
from appliance.system.offload import Nic
from appliance.system.offload_devlink import Devlink
from appliance.system.offload_plan import Step
from appliance.system.offload_settings import shown


def status(
    profile: OffloadProfile | None,
    ledger: Ledger,
    nics: Iterable[Nic],
    worker_cpus: Iterable[int],
    drifted: Iterable[str],
) -> pb.OffloadStatus:
    return pb.OffloadStatus(
        prefer=profile.prefer if profile else "",
        minimum_bytes=(profile.minimum_bytes or 0) if profile else 0,
        min_version=profile.tls.min_version if profile else "",
        ciphers=profile.ciphers if profile else (),
        layers=legs(ledger.layers),
        reasons=legs(ledger.reasons),
        worker_cpus=worker_cpus,
        nics=map(_nic, nics),
        drifted=drifted,
    )


def legs(counts: Mapping[str, int]) -> list[pb.LegCount]:
    return [pb.LegCount(name=name, legs=count) for name, count in counts.items()]


def steps(value: Iterable[Step]) -> pb.OffloadSteps:
    return pb.OffloadSteps(steps=map(_step, value))


def _step(step: Step) -> pb.OffloadStep:
    return pb.OffloadStep(
        interface=step.interface,
        setting=step.setting,
        old=shown(step.setting, step.old),
        new=shown(step.setting, step.new),
        outcome=step.outcome,
        text=step.text,
        source=step.source,
    )


def _nic(nic: Nic) -> pb.Nic:
    device = nic.device
    return pb.Nic(
        name=device.name,
        serves=nic.serves,
        model=nic.model,
        pci_id=device.pci_id,
        driver=device.driver,
        firmware=device.firmware,
        bus=device.bus,
        profile=nic.profile.name,
        settings=[
            pb.NicSetting(
                name=name,
                value=held.value,
                most=held.most,
                fixed=held.fixed,
                shown=shown(name, held.value),
            )
            for name, held in device.settings.items()
        ],
        irqs=[pb.NicIrq(number=irq.number, name=irq.name, cpus=irq.cpus) for irq in device.irqs],
        facts=[pb.NicFact(what=fact.what, source=fact.source) for fact in nic.profile.facts],
        remarks=nic.remarks,
        devlink=_devlink(nic.devlink),
    )


def _devlink(told: Devlink) -> pb.Devlink:
    return pb.Devlink(
        handle=told.handle,
        versions=[
            pb.DevlinkVersion(kind=each.kind, name=each.name, value=each.value)
            for each in told.versions
        ],
        parameters=[
            pb.DevlinkParameter(name=each.name, mode=each.mode, value=each.value)
            for each in told.parameters
        ],
        remarks=told.remarks,
    )
