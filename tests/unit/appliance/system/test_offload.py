"""NIC profiles, plans, and applying them: with devices as values and a root helper of paper."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidInput, LimitReached, Unavailable
from appliance.observe.audit import Audit
from appliance.paths import shipped
from appliance.registry import nic_settings
from appliance.registry.nic_settings import Changed, NicSettings
from appliance.registry.store import Store
from appliance.system import offload as offload_module
from appliance.system import offload_device
from appliance.system.offload import Nic, Offload, worker_cpus
from appliance.system.offload_device import Put
from appliance.system.offload_plan import Outcome, plan, remarks
from appliance.system.offload_profile import Match, Profile, choose, known, load
from appliance.system.offload_settings import SETTINGS, Device, Irq, Setting, cpu_list, shown
from tests.unit.appliance.system.test_nft import SITE

OFF, ON = Setting(0, 1), Setting(1, 1)
FIXED = Setting(0, 1, fixed=True)


def device(driver: str = "mlx5_core", pci: str = "", **settings: Setting) -> Device:
    named = {name.replace("__", ".").replace("_", "-"): held for name, held in settings.items()}
    return Device("nic0", driver, "22.1", "0000:3b:00.0", pci, named)


def profile(*wishes: str, text: str = "match: [{driver: '*', model: x}]") -> str:
    lines = [f"  - {{{wish}, why: because, source: a book}}" for wish in wishes]
    return "\n".join(["name: test", text, *(["settings:", *lines] if lines else [])])


def loaded(folder: Path, text: str) -> Profile:
    (folder / "one.yaml").write_text(text)
    (found,) = load(folder)
    return found


# ------------------------------------------------------------------------------------- profiles


def test_the_shipped_profiles_are_sound_and_each_fact_has_a_source() -> None:
    names = {each.name for each in known()}
    assert names >= {"generic", "veth", "virtio", "nvidia-connectx", "chelsio-t6"}
    for each in known():
        for source in (*(f.source for f in each.facts), *(w.source for w in each.settings)):
            assert re.match(r"(Linux, (Documentation|drivers|include)/|NVIDIA |OASIS, )", source)
        order = [wish.set for wish in each.settings]  # in which they are set
        if "tls-hw-rx-offload" in order:  # the kernel drops it without
            assert order.index("rx-checksum") < order.index("tls-hw-rx-offload")
        for wish in each.settings:
            assert wish.when == ("nic" if wish.set.startswith("tls-hw") else "always")


@pytest.mark.parametrize(
    ("pci", "driver", "name", "model"),
    [
        ("15b3:101d", "mlx5_core", "nvidia-connectx", "ConnectX-6 Dx"),
        ("15b3:1021", "mlx5_core", "nvidia-connectx", "ConnectX-7"),
        ("15b3:a2d6", "mlx5_core", "nvidia-connectx", "BlueField-2"),
        ("15b3:a2dc", "mlx5_core", "nvidia-connectx", "BlueField-3"),
        ("15b3:1017", "mlx5_core", "generic", ""),
        ("1425:6401", "cxgb4", "chelsio-t6", "T6"),
        ("1425:5401", "cxgb4", "generic", ""),
        ("19ee:4000", "nfp", "netronome-agilio", "Agilio"),
        ("1af4:1041", "virtio_net", "virtio", "virtio"),
        ("1af4:1000", "virtio_net", "virtio", "transitional"),
        ("", "veth", "veth", "virtual"),
        ("", "", "generic", ""),
    ],
)
def test_a_device_gets_the_profile_of_its_model(
    pci: str, driver: str, name: str, model: str
) -> None:
    chosen = choose(known(), device(driver, pci))
    assert chosen is not None
    assert (chosen[0].name, model in chosen[1]) == (name, True)


@given(st.sampled_from(["15b3:101d", "15b3:*", "*:*"]), st.sampled_from(["veth", "*"]))
def test_the_more_exact_match_wins(pci: str, driver: str) -> None:
    found = device("veth", "15b3:101d")
    exact = Match(model="x", pci="15b3:101d").rank(found)
    assert (
        exact >= Match(model="x", pci=pci).rank(found) > Match(model="x", driver=driver).rank(found)
    )
    assert Match(model="x", pci=pci).rank(device("veth")) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "not YAML"),
        ("name: x", "match: Field required"),
        (profile("set: mtu, to: 9000"), "settings.0: 'mtu' cannot be set"),
        (profile("set: rx-gro, to: 1"), "settings.0: rx-gro: write on or off"),
        (profile("set: rings.rx, to: on"), "settings.0: rings.rx: write on or off for a feature"),
        (profile("set: rings.rx, to: workers"), "settings.0: rings.rx: workers counts queues"),
        (profile("set: rings.rx, to: 0"), "settings.0.to"),
        (profile("set: rings.rx, to: 65537"), "settings.0.to"),
        (profile("set: rx-gro, to: on, when: never"), "settings.0.when"),
        (profile("set: interrupts, to: on"), "settings.0: interrupts: write to: workers"),
        (profile("set: interrupts, to: workers, when: nic"), "settings.0: interrupts: write"),
        (profile("set: rx-gro, to: on, then: x"), "settings.0.then: Extra inputs"),
        (profile("set: rx-gro, to: on", "set: rx-gro, to: off"), "each setting may be there once"),
        (profile(text="match: [{model: x}]"), "match.0: write pci or driver"),
        (profile(text="match: [{model: x, pci: '15b3:101D'}]"), "match.0.pci"),
        (profile(text="match: [{model: x, pci: '1af4:1000', driver: veth}]"), "match.0: write"),
        (profile(text="match: []"), "match"),
        (profile(text="match: [{driver: veth, model: x}]\nfacts: [{what: x}]"), "facts.0.source"),
    ],
)
def test_a_malformed_profile_is_refused_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=r"bad\.yaml: ") as caught:
        load(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_profiles_of_one_name_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no NIC profile"):
        load(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(profile())
    with pytest.raises(InvalidInput, match="another profile is named test"):
        load(tmp_path)


# ----------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    ("wish", "held", "outcome", "new", "text"),
    [
        ("set: rx-gro, to: on", {"rx_gro": OFF}, Outcome.CHANGE, 1, "because"),
        ("set: rx-gro, to: off", {"rx_gro": ON}, Outcome.CHANGE, 0, "because"),
        ("set: rx-gro, to: on", {"rx_gro": ON}, Outcome.GOOD, 1, ""),
        ("set: rx-gro, to: on", {"rx_gro": FIXED}, Outcome.CANNOT, 1, "fixed off by the driver"),
        ("set: rx-gro, to: off", {"rx_gro": FIXED}, Outcome.GOOD, 0, ""),
        ("set: rings.rx, to: 4096", {}, Outcome.CANNOT, 4096, "the device does not have it"),
        ("set: rings.rx, to: 4096", {"rings__rx": Setting(256, 8192)}, Outcome.CHANGE, 4096, "be"),
        ("set: rings.rx, to: 4096", {"rings__rx": Setting(256, 1024)}, Outcome.CHANGE, 1024, "be"),
        ("set: rings.rx, to: 4096", {"rings__rx": Setting(1024, 1024)}, Outcome.GOOD, 1024,
         "the device has 1024 at most"),
        ("set: rings.rx, to: 4096", {"rings__rx": Setting(8192, 8192)}, Outcome.GOOD, 8192, ""),
        ("set: queues.combined, to: workers", {"queues__combined": Setting(1, 8)},
         Outcome.CHANGE, 4, "because"),
        ("set: queues.combined, to: workers", {"queues__combined": Setting(2, 2)},
         Outcome.GOOD, 2, "the device has 2 at most"),
        ("set: tls-hw-tx-offload, to: on, when: nic", {"tls_hw_tx_offload": OFF},
         Outcome.UNASKED, 1, "only with prefer: nic; the site's is ktls"),
    ],
)  # fmt: skip
def test_plan(
    tmp_path: Path, wish: str, held: dict[str, Setting], outcome: Outcome, new: int, text: str
) -> None:
    (step,) = plan(device(**held), loaded(tmp_path, profile(wish)), "ktls", range(4))
    assert (step.outcome, step.new) == (outcome, new)
    assert text in step.text
    assert (text == "") == (step.text == "")
    assert step.source == "a book"


def test_the_nics_encryption_is_for_who_prefers_it() -> None:
    chosen = choose(known(), device(pci="15b3:101d"))
    assert chosen is not None
    card = device(pci="15b3:101d", tls_hw_tx_offload=OFF, tls_hw_rx_offload=FIXED)
    for prefer in ("auto", "user", "ktls", "openssl", "nic"):
        found = {step.setting: step for step in plan(card, chosen[0], prefer, (0, 1))}
        outcomes = found["tls-hw-tx-offload"].outcome, found["tls-hw-rx-offload"].outcome
        asked = (Outcome.CHANGE, Outcome.CANNOT)
        assert outcomes == (asked if prefer == "nic" else (Outcome.UNASKED,) * 2)


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("mlx5_comp3@pci:0000:3b:00.0", 3),
        ("virtio2-input.0", 0),
        ("virtio2-output.11", 11),
        ("eth0-TxRx-7", 7),
        ("nfp-0000:04:00.0-rxtx-2", 2),
        ("eth0-Rx12", 12),
        ("mlx5_async0@pci:0000:3b:00.0", None),
        ("virtio2-config", None),
        ("matrix9", None),
        ("", None),
    ],
)
def test_an_interrupt_says_its_queue(name: str, queue: int | None) -> None:
    assert Irq(1, name, "0").queue == queue


def test_each_queues_interrupt_goes_to_its_workers_processor(tmp_path: Path) -> None:
    chosen = loaded(tmp_path, profile("set: interrupts, to: workers"))
    irqs = (
        Irq(40, "virtio2-config", "0-7"),
        Irq(41, "virtio2-input.0", "0-7"),
        Irq(42, "virtio2-output.0", "2"),
        Irq(43, "virtio2-input.1", ""),
        Irq(44, "virtio2-input.2", "5"),
    )
    steps = plan(replace(device(), irqs=irqs), chosen, "auto", (2, 3))
    assert [(step.setting, step.old, step.new, step.outcome) for step in steps] == [
        ("irq virtio2-input.0", "0-7", "2", Outcome.CHANGE),
        ("irq virtio2-output.0", "2", "2", Outcome.GOOD),
        ("irq virtio2-input.1", None, "3", Outcome.CANNOT),
        ("irq virtio2-input.2", "5", "2", Outcome.CHANGE),
    ]
    assert {step.source for step in steps} == {"a book"}
    assert [step.text for step in steps][1:3] == ["", "where it is served is not shown"]
    (step,) = plan(device(), chosen, "auto", (2, 3))
    assert (step.setting, step.outcome) == ("interrupts", Outcome.CANNOT)


devices = st.dictionaries(
    st.sampled_from(SETTINGS), st.builds(Setting, st.integers(0, 1), st.just(1), st.booleans())
).map(lambda held: Device("nic0", settings=held))


@given(devices, st.sampled_from(["auto", "nic"]), st.integers(1, 64))
def test_each_wish_is_answered_once_and_no_plan_exceeds_the_device(
    found: Device, prefer: str, workers: int
) -> None:
    for each in known():
        steps = plan(found, each, prefer, range(workers))
        assert [step.setting for step in steps] == [wish.set for wish in each.settings]
        for step in steps:
            if step.outcome is Outcome.CHANGE:
                held = found.settings[step.setting]
                assert not held.fixed
                assert held.value != step.new <= held.most
            if step.outcome in (Outcome.CANNOT, Outcome.UNASKED):
                assert step.text


def test_remarks_set_queues_and_interrupts_against_workers() -> None:
    few = replace(device(queues__rx=Setting(1, 4)), irqs=(Irq(7, "rx", "8-9"),))
    assert [text.split(" ")[0] for text in remarks(few, (0, 1))] == ["1", "no"]
    good = replace(device(queues__combined=Setting(2, 4)), irqs=(Irq(7, "rx", "0-9"),))
    assert remarks(good, (0, 1)) == ()
    assert remarks(device(), (0,)) == ("it has no interrupts of its own",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-2,5", {0, 1, 2, 5}), ("3", {3}), ("", set()), ("x", set()), ("0-99999999", set())],
)
def test_cpu_list(text: str, expected: set[int]) -> None:
    assert cpu_list(text) == expected


def test_what_people_read() -> None:
    assert (shown("rx-gro", 1), shown("rings.rx", 1), shown("rx-gro", None)) == ("on", "1", "none")


# ---------------------------------------------------------------------------------------- sysfs


def test_a_device_behind_virtio_has_its_cards_pci_id_and_interrupts(tmp_path: Path) -> None:
    card = tmp_path / "sys/devices/pci0000:00/0000:00:03.0"
    for path, text in {
        card / "vendor": "0x1AF4\n",
        card / "device": "0x1041\n",
        card / "virtio2/vendor": "0x1af4\n",
        card / "virtio2/net/eth0/type": "1\n",
        card / "msi_irqs/38": "msix\n",
        card / "msi_irqs/37": "msix\n",
        tmp_path / "proc/irq/37/smp_affinity_list": "0-1\n",
        tmp_path / "proc/irq/37/virtio2-input.0/x": "",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "sys/bus/pci").mkdir(parents=True)
    (card / "subsystem").symlink_to(tmp_path / "sys/bus/pci")
    (card / "virtio2/subsystem").symlink_to(tmp_path / "sys/bus/virtio")
    (card / "virtio2/net/eth0/device").symlink_to(card / "virtio2")
    net = tmp_path / "sys/class/net"
    net.mkdir(parents=True)
    (net / "eth0").symlink_to(card / "virtio2/net/eth0")
    assert offload_device.pci_id("eth0", tmp_path) == "1af4:1041"
    assert offload_device.irqs("eth0", tmp_path) == (
        Irq(37, "virtio2-input.0", "0-1"),
        Irq(38, "", ""),
    )
    assert offload_device.pci_id("nosuch0", tmp_path) == ""
    assert offload_device.irqs("nosuch0", tmp_path) == ()


def test_interrupts_of_another_port_or_of_a_controller_are_not_the_devices(tmp_path: Path) -> None:
    card = tmp_path / "sys/devices/pci0000:00/0000:00:04.0"
    names = ("eth1-rx-0", "eth1", "eth10-rx-0", "eth10", "async")
    for number, name in enumerate(names):
        (card / f"msi_irqs/{number}").mkdir(parents=True)
        (tmp_path / f"proc/irq/{number}/{name}").mkdir(parents=True)
    (card / "usb1/1-1").mkdir(parents=True)
    for port, folder in {"eth1": card, "eth10": card, "usb0": card / "usb1/1-1"}.items():
        (folder / "net" / port).mkdir(parents=True)
        (tmp_path / "sys/class/net" / port).mkdir(parents=True)
        (tmp_path / "sys/class/net" / port / "device").symlink_to(folder)

    def found(port: str) -> list[str]:
        return [irq.name for irq in offload_device.irqs(port, tmp_path)]

    assert found("eth1") == ["eth1-rx-0", "eth1", "async"]
    assert found("eth10") == ["eth10-rx-0", "eth10", "async"]
    assert found("usb0") == []


def test_an_interrupt_is_put_by_its_name_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "sys/devices/pci0000:00/0000:00:03.0"
    for number in (37, 38):
        (card / f"msi_irqs/{number}").mkdir(parents=True)
        (tmp_path / f"proc/irq/{number}/eth0-rx-{number}").mkdir(parents=True)
        (tmp_path / f"proc/irq/{number}/smp_affinity_list").write_text("0-3\n")
    (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/device").symlink_to(card)
    (tmp_path / "proc/irq/7/eth1-rx-0").mkdir(parents=True)  # another's
    put = offload_device.put_irq
    assert put("eth0", "eth0-rx-38", "2", tmp_path) == Put("0-3", "2", "")
    assert [irq.cpus for irq in offload_device.irqs("eth0", tmp_path)] == ["0-3", "2"]
    for other in ("eth1-rx-0", "38", "../38", ""):
        assert put("eth0", other, "1", tmp_path) == Put(None, None, "the device does not have it")
    assert put("eth1", "eth1-rx-0", "1", tmp_path).before is None

    def refuse(path: Path, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert put("eth0", "eth0-rx-37", "1", tmp_path) == Put("0-3", "0-3", "input/output error")
    monkeypatch.setattr(Path, "write_text", lambda path, text: 0)
    refused = put("eth0", "eth0-rx-37", "1", tmp_path)
    assert refused == Put("0-3", "0-3", "the kernel serves it elsewhere")


# --------------------------------------------------------------------------------------- apply


class Card:
    """A device and the root helper that sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Setting) -> None:
        self.device: Device | None = device("test", **settings)
        self.refuses: dict[str, str] = {}
        self.dies_at = self.dies_after = ""
        self.others: list[Device] = []
        self.asked = asyncio.Event()
        self.slow: asyncio.Event | None = None
        monkeypatch.setattr(offload_module, "_read", self.read)
        monkeypatch.setattr(offload_module, "_index", {"nic0": 1, "nic1": 2}.get)
        monkeypatch.setattr(offload_module.os, "listdir", lambda path: ["nic0", "nic1"])

    def read(self, name: str) -> Device | None:
        present = [each for each in (self.device, *self.others) if each and each.name == name]
        return present[0] if present else None

    def value(self, setting: str) -> int:
        assert self.device is not None
        return self.device.settings[setting].value

    async def call(self, verb: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        if verb == "irq-set":
            return self.place(arguments["interface"], arguments["irq"], arguments["cpus"])
        assert verb == "nic-set"
        setting, value = arguments["setting"], arguments["value"]
        self.asked.set()
        if self.slow is not None:
            await self.slow.wait()
        found = self.read(arguments["interface"])
        assert found is not None
        if setting == self.dies_at:
            raise Unavailable("the supervisor hung up")
        before = found.settings[setting]
        refused = self.refuses.get(setting, "")
        if not refused:
            settings = {**found.settings, setting: replace(before, value=value)}
            changed = replace(found, settings=settings)
            if found is self.device:
                self.device = changed
            else:
                self.others = [changed if each is found else each for each in self.others]
        if setting == self.dies_after:
            raise Unavailable("the supervisor hung up")
        return {
            "before": before.value,
            "after": before.value if refused else value,
            "refused": refused,
        }

    def place(self, interface: str, name: str, cpus: str) -> dict[str, Any]:
        found = self.read(interface)
        assert found is not None
        before = found.value(f"irq {name}")
        irqs = (replace(irq, cpus=cpus) if irq.name == name else irq for irq in found.irqs)
        self.device = replace(found, irqs=tuple(irqs))
        return {"before": before, "after": cpus, "refused": ""}


WISHES = ("set: rx-gro, to: on", "set: rings.rx, to: 1024", "set: rings.tx, to: 1024")
HELD = {"rx_gro": OFF, "rings__rx": Setting(256, 4096), "rings__tx": Setting(256, 4096)}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    return Card(monkeypatch, **HELD)


def offload(card: Card, folder: Path, monkeypatch: pytest.MonkeyPatch, *wishes: str) -> Offload:
    chosen = loaded(folder, profile(*(wishes or WISHES)))
    store = Store(folder / "state.db")
    part = Offload(SITE, lambda: "auto", card, NicSettings(store), Audit(store).record)

    async def nics() -> tuple[Nic, ...]:
        return (Nic(card.device, ("mesh",), "x", chosen, ()),) if card.device else ()

    monkeypatch.setattr(part, "nics", nics)
    return part


async def test_apply_then_revert_leaves_it_as_it_was(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    assert {step.outcome for step in await part.plan()} == {Outcome.CHANGE}
    assert {step.outcome for step in await part.apply()} == {Outcome.CHANGED}
    assert (card.value("rx-gro"), card.value("rings.rx")) == (1, 1024)
    assert {step.outcome for step in await part.apply()} == {Outcome.GOOD}
    assert await part.drifted() == ()
    again = offload(card, tmp_path, monkeypatch)  # another daemon on the same state
    back = await again.revert()
    assert [step.setting for step in back] == ["rings.tx", "rings.rx", "rx-gro"]
    assert {step.outcome for step in back} == {Outcome.CHANGED}
    assert (card.value("rx-gro"), card.value("rings.rx")) == (0, 256)
    assert await again.revert() == ()


async def test_interrupts_are_placed_and_put_back(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card.device is not None
    card.device = replace(card.device, irqs=(Irq(9, "nic0-rx-0", "0-7"), Irq(10, "nic0", "0-7")))
    part = offload(card, tmp_path, monkeypatch, "set: interrupts, to: workers", WISHES[0])
    first = str(worker_cpus(SITE)[0])
    steps = await part.apply()
    assert [step.setting for step in steps] == ["rx-gro", "irq nic0-rx-0"]
    assert {step.outcome for step in steps} == {Outcome.CHANGED}
    assert card.device.value("irq nic0-rx-0") == first
    assert {step.outcome for step in await part.apply()} == {Outcome.GOOD}
    card.place("nic0", "nic0-rx-0", "5-6")
    assert await part.drifted() == (f"nic0 irq nic0-rx-0 is 5-6, was set to {first}",)
    again = offload(card, tmp_path, monkeypatch)
    assert [(step.setting, step.new, step.outcome) for step in await again.revert()] == [
        ("irq nic0-rx-0", "0-7", Outcome.CHANGED),
        ("rx-gro", 0, Outcome.CHANGED),
    ]
    assert [irq.cpus for irq in card.device.irqs] == ["0-7", "0-7"]


async def test_what_the_device_refuses_is_said_and_not_reverted(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    card.refuses["rings.rx"] = "device or resource busy"
    steps = {step.setting: step for step in await part.apply()}
    assert steps["rings.rx"].outcome is Outcome.REFUSED
    assert steps["rings.rx"].text == "device or resource busy; it is 256"
    assert steps["rings.tx"].outcome is Outcome.CHANGED
    assert [step.setting for step in await part.revert()] == ["rings.tx", "rx-gro"]


@pytest.mark.parametrize("after", [False, True])
async def test_a_helper_that_dies_half_way_leaves_all_revertible(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    card.dies_at, card.dies_after = ("", "rings.rx") if after else ("rings.rx", "")
    steps = {step.setting: step for step in await part.apply()}
    assert steps["rx-gro"].outcome is Outcome.CHANGED
    assert steps["rings.rx"].outcome is (Outcome.CHANGED if after else Outcome.REFUSED)
    assert "hung up" in steps["rings.rx"].text
    assert steps["rings.tx"].outcome is Outcome.UNTRIED
    card.dies_at = card.dies_after = ""
    await part.revert()
    assert (card.value("rx-gro"), card.value("rings.rx"), card.value("rings.tx")) == (0, 256, 256)
    assert await part.revert() == ()


async def test_a_caller_that_goes_away_stops_nothing_half_way(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    card.slow = asyncio.Event()
    caller = asyncio.ensure_future(part.apply())
    await card.asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    card.slow.set()
    await part.close()
    assert (card.value("rx-gro"), card.value("rings.tx")) == (1, 1024)


async def test_what_cannot_be_put_back_stays_noted(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch, WISHES[0])
    await part.apply()
    card.refuses["rx-gro"] = "busy"
    (step,) = await part.revert()
    assert (step.outcome, step.text) == (Outcome.REFUSED, "busy")
    card.refuses.clear()
    (step,) = await part.revert()
    assert step.outcome is Outcome.CHANGED


async def test_a_renamed_device_is_found_by_its_bus_and_a_gone_one_is_forgotten(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch, WISHES[0])
    await part.apply()
    assert card.device is not None
    card.others, card.device = [replace(card.device, name="nic1")], None
    (step,) = await part.revert()
    assert (step.outcome, step.text) == (Outcome.CHANGED, "it is named nic1 now")
    assert card.others[0].settings["rx-gro"].value == 0
    card.others, card.device = [], replace(card.others[0], name="nic0")
    await part.apply()
    card.device = replace(card.device, bus="0000:5e:00.0")  # another card got the name
    (step,) = await part.revert()
    assert "gone" in step.text
    assert card.device.settings["rx-gro"].value == 1
    assert await part.revert() == ()


async def test_a_reboot_that_forgot_the_settings_is_told(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch, WISHES[0])
    await part.apply()
    card.device = device("test", **HELD)
    assert await part.drifted() == ("nic0 rx-gro is off, was set to on",)


def test_the_first_value_is_kept_and_rows_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = NicSettings(Store(tmp_path / "state.db"))
    kept.note(Changed("nic0", "test x", "rings.rx", 256, 512))
    kept.note(Changed("nic0", "test x", "rings.rx", 512, 1024))
    assert kept.changed() == (Changed("nic0", "test x", "rings.rx", 256, 1024),)
    kept.note(Changed("nic0", "other y", "rings.rx", 64, 128))  # another card got the name
    assert kept.changed() == (Changed("nic0", "other y", "rings.rx", 64, 128),)
    monkeypatch.setattr(nic_settings, "ROWS_MAX", 1)
    with pytest.raises(LimitReached, match="offload revert"):
        kept.note(Changed("nic0", "other y", "rings.tx", 64, 128))


def test_each_worker_has_a_processor() -> None:
    cpus = worker_cpus(SITE)
    assert len(cpus) == (SITE.spec.dataplane.workers or len(set(cpus)))


def test_the_files_that_ship_are_there() -> None:
    for folder in ("nic", "sysctl.d", "modules-load.d"):
        assert any(shipped(folder).iterdir())


def audited(folder: Path) -> list[str]:
    entries = Audit(Store(folder / "state.db")).entries()
    assert {(each.who, each.what) for each in entries} <= {("daemon", "restore offload")}
    return [each.detail for each in reversed(entries)]


async def test_a_reboot_sets_it_again_and_revert_forgets_it(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await offload(card, tmp_path, monkeypatch).apply()
    fresh = device("test", **HELD)
    card.device = fresh
    part = offload(card, tmp_path, monkeypatch)
    assert await part.restore(frozenset({7})) == ()
    done = await part.restore(frozenset({1, 7}))
    assert [(step.setting, step.outcome) for step in done] == [
        ("rx-gro", Outcome.CHANGED), ("rings.rx", Outcome.CHANGED), ("rings.tx", Outcome.CHANGED),
    ]  # fmt: skip
    assert (card.value("rx-gro"), card.value("rings.rx")) == (1, 1024)
    assert await part.restore(frozenset({1})) == ()
    assert audited(tmp_path)[0] == "nic0 rx-gro off to on"
    await part.revert()
    assert (card.value("rx-gro"), card.value("rings.rx")) == (0, 256)
    card.device = fresh
    assert await part.restore(frozenset({1})) == ()
    assert card.value("rx-gro") == 0


async def test_what_cannot_be_set_again_is_said_and_stays_noted(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    await part.apply()
    card.device = device("test", rx_gro=OFF, rings__rx=Setting(256, 4096))
    card.refuses["rx-gro"], card.dies_at = "busy", "rings.rx"
    done = await part.restore(frozenset({1}))
    assert {step.outcome for step in done} == {Outcome.REFUSED}
    assert audited(tmp_path) == [
        "nic0 rx-gro off to on: refused: busy",
        "nic0 rings.rx 256 to 1024: refused: the supervisor hung up",
        "nic0 rings.tx none to 1024: refused: the device does not have it any more",
    ]
    card.refuses.clear()
    card.dies_at = ""
    card.asked.clear()
    card.slow = asyncio.Event()
    caller = asyncio.ensure_future(part.appeared(frozenset({1})))
    await asyncio.wait_for(card.asked.wait(), 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    card.slow.set()
    await part.close()  # waits for what is under way
    assert (card.value("rx-gro"), card.value("rings.rx")) == (1, 1024)
    card.device = replace(device("other", **HELD), bus="0000:5e:00.0")
    (step, *_) = await part.restore(frozenset({1}))
    assert "another device has that name" in step.text
    assert card.value("rx-gro") == 0


async def test_a_renamed_device_gets_its_settings_under_its_new_name(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch, WISHES[0])
    await part.apply()
    card.others, card.device = [replace(device("test", **HELD), name="nic1")], None
    (step,) = await part.restore(frozenset({2}))
    assert step.outcome is Outcome.CHANGED
    assert card.others[0].settings["rx-gro"].value == 1


async def test_a_device_renamed_between_two_settings_gets_the_rest(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = offload(card, tmp_path, monkeypatch)
    await part.apply()
    card.device = device("test", **HELD)
    call = card.call

    async def renamed(verb: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        if arguments["interface"] == "nic0" and arguments["setting"] == "rings.rx":
            assert card.device is not None
            card.others, card.device = [replace(card.device, name="nic1")], None
            raise Unavailable("there is no interface nic0")
        return await call(verb, timeout_s, **arguments)

    monkeypatch.setattr(card, "call", renamed)
    monkeypatch.setattr(offload_module, "_index", {"nic0": 1, "nic1": 1}.get)
    done = await part.restore(frozenset({1}))
    assert {step.outcome for step in done} == {Outcome.CHANGED}
    assert [card.others[0].value(step.setting) for step in done] == [1, 1024, 1024]


async def test_interrupts_are_placed_again_once_the_device_is_on(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card.device is not None
    on = replace(card.device, irqs=(Irq(9, "nic0-rx-0", "0-7"),))
    card.device = on
    part = offload(card, tmp_path, monkeypatch, "set: interrupts, to: workers", WISHES[0])
    await part.apply()
    card.device = replace(on, irqs=())  # many drivers have none before
    await part.appeared(frozenset({1}))
    assert card.value("rx-gro") == 1
    assert audited(tmp_path) == ["nic0 rx-gro off to on"]
    card.device = replace(on, settings={**on.settings, "rx-gro": OFF})
    await part.switched_on(frozenset({1}))
    assert card.device.value("irq nic0-rx-0") == str(worker_cpus(SITE)[0])
    assert card.value("rx-gro") == 0  # another's doing
    assert len(audited(tmp_path)) == 2
