"""The only importer of the extension: owners of native objects, and check().

Turns frozen values into native objects and hands them over; decides nothing, does no I/O. Every
call returns at once but Engine.stop, which blocks. Native code copies what it keeps, so no Python
object has to outlive its call.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dataplane._native import ffi, lib
from dataplane.snapshot import Address, Bundle, EndpointSet, Leaf, Match, Service, Snapshot
from dataplane.stats import Histogram

if lib.dp_abi_version() != lib.DP_ABI_VERSION:
    raise ImportError("dataplane._native is of another version: build it again (make setup)")

CData = Any  # a pointer, struct or array of C
EVENT_BYTES = 256 << 10  # read at once
U64_MAX = 2**64 - 1


class NativeError(Exception):
    """Native code said no. errno is positive; the message says to what."""

    def __init__(self, errno: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(errno)}")
        self.errno = errno


class Rejected(ValueError):
    """A value cannot be made native: a reference to nothing, or text that does not fit."""


def check(result: int, what: str) -> int:
    """The only place where -errno becomes an exception."""
    if result < 0:
        raise NativeError(-result, what)
    return result


def enter_sandbox() -> None:
    """Gives up, for all threads and for good, what the process no longer needs."""
    check(lib.dp_sandbox_enter(), "sandbox")


def _bytes16(address: Address) -> bytes:
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _text(value: str) -> bytes:
    data = value.encode()
    if b"\0" in data:
        raise Rejected(f"{value!r}: text with a NUL")
    return data


class Certificates:
    """Leaves and bundles that were parsed already, by content: what did not change between two
    snapshots is not parsed again. `keep` forgets all but those of the snapshot accepted last."""

    def __init__(self) -> None:
        self._leaves: dict[Leaf, CData] = {}
        self._bundles: dict[Bundle, CData] = {}

    def leaf(self, leaf: Leaf) -> CData:
        found = self._leaves.get(leaf)
        if found is None:
            found = self._leaves[leaf] = _new_leaf(leaf)
        return found

    def bundle(self, bundle: Bundle) -> CData:
        found = self._bundles.get(bundle)
        if found is None:
            found = self._bundles[bundle] = _new_bundle(bundle)
        return found

    def keep(self, native: NativeSnapshot) -> None:
        self._leaves, self._bundles = dict(native.leaves), dict(native.bundles)


def _new_leaf(leaf: Leaf) -> CData:
    chain, key = leaf.chain_pem.encode(), leaf.key_pem.encode()
    ret = ffi.new("dp_leaf **")
    what = f"leaf {leaf.key} (certificate, key and SPIFFE ID must belong together)"
    check(
        lib.dp_leaf_new(_text(leaf.spiffe_id), chain, len(chain), key, len(key), ret),
        what,
    )
    return ffi.gc(ret[0], lib.dp_leaf_free)


def _new_bundle(bundle: Bundle) -> CData:
    certs = bundle.certs_pem.encode()
    ret = ffi.new("dp_bundle **")
    check(
        lib.dp_bundle_new(_text(bundle.trust_domain), certs, len(certs), ret),
        f"bundle of {bundle.trust_domain}",
    )
    return ffi.gc(ret[0], lib.dp_bundle_free)


def expired_leaves(certificates: Certificates, leaves: Iterable[Leaf], now_s: float) -> set[str]:
    """Keys of the leaves whose time has run out. Raises NativeError for one that cannot be read."""
    return {
        leaf.key for leaf in leaves if lib.dp_leaf_not_after_s(certificates.leaf(leaf)) <= now_s
    }


@dataclass(slots=True)
class NativeSnapshot:
    """A sealed snapshot that no engine has yet, and the certificates it refers to."""

    pointer: CData
    leaves: Mapping[Leaf, CData]
    bundles: Mapping[Bundle, CData]
    left_out: tuple[str, ...] = ()  # peers' bundles, and why


@dataclass(slots=True)
class NativeSet:
    """A set of endpoints that no engine has yet."""

    id: int
    pointer: CData


def build(snapshot: Snapshot, certificates: Certificates) -> NativeSnapshot:
    """Raises Rejected or NativeError, naming the part that is not good."""
    return _Builder(snapshot, certificates).build()


def build_set(value: EndpointSet) -> NativeSet:
    """Raises Rejected or NativeError."""
    strings: dict[str, CData] = {}
    return NativeSet(value.id, _endpoints(value, strings))


def _string(strings: dict[str, CData], value: str) -> CData:
    """A C string that lives as long as the dict."""
    found = strings.get(value)
    if found is None:
        found = strings[value] = ffi.new("char[]", _text(value))
    return found


def _endpoints(value: EndpointSet, strings: dict[str, CData]) -> CData:
    what = f"endpoint set {value.id} of {value.service}"
    policy = ffi.new("dp_set_policy *")
    try:
        policy.balance = value.balance
        policy.ejection_percent_max = value.ejection_percent_max
        policy.failures_consecutive = value.failures_consecutive
        policy.connections_max = value.connections_max
        policy.ejection_base_ms = value.ejection_base_ms
        policy.ejection_max_ms = value.ejection_max_ms
        ret = ffi.new("dp_endpoints **")
        check(lib.dp_endpoints_new(policy, ret), what)
        pointer = ffi.gc(ret[0], lib.dp_endpoints_free)
        native, ret_index = ffi.new("dp_endpoint *"), ffi.new("uint32_t *")
        native.service = _string(strings, value.service)
        for each in value.endpoints:
            ffi.buffer(native.addr)[:] = _bytes16(each.address)
            native.port = each.port
            native.target_port = each.target_port
            native.kind = each.kind
            native.priority = each.priority
            native.healthy = each.healthy
            native.weight = each.weight
            native.name = _string(strings, each.name)
            native.sni = _string(strings, each.sni)
            check(lib.dp_endpoints_add(pointer, native, ret_index), f"{what}: {each.name}")
            for spiffe_id in each.expected:
                check(
                    lib.dp_endpoints_add_expected(pointer, ret_index[0], _text(spiffe_id)),
                    f"{what}: {each.name}: {spiffe_id}",
                )
    except OverflowError as error:
        raise Rejected(f"{what}: {error}") from error
    return pointer


def _disarmed(pointer: CData) -> CData:
    """For a call that takes ownership, also when it fails."""
    ffi.gc(pointer, None)
    return pointer


class _Builder:
    """One snapshot in the making."""

    def __init__(self, snapshot: Snapshot, certificates: Certificates) -> None:
        self._value = snapshot
        self._certificates = certificates
        self._strings: dict[str, CData] = {}
        self._index = ffi.new("uint32_t *")
        ret = ffi.new("dp_snapshot **")
        check(lib.dp_snapshot_new(snapshot.version, _text(snapshot.trust_domain), ret), "snapshot")
        self._snap = ffi.gc(ret[0], lib.dp_snapshot_free)
        self._leaves: dict[str, int] = {}
        self._services: dict[tuple[str, int], int] = {}
        self._policies: dict[str, int] = {}
        self._left_out: list[str] = []

    def build(self) -> NativeSnapshot:
        value = self._value
        try:
            bundles = self._add_bundles()
            leaves = self._add_leaves()
            self._set_offload()
            self._add_denied()
            self._add_hosts()
            self._add_policies()
            for service in value.services:
                self._add_service(service)
            for each in value.sets:
                pointer = _disarmed(_endpoints(each, self._strings))
                check(
                    lib.dp_snapshot_add_set_take(self._snap, each.id, pointer),
                    f"endpoint set {each.id} of {each.service}",
                )
            for inbound in value.inbound:
                index = self._services.get((inbound.service, inbound.port))
                if index is None:
                    raise Rejected(f"SNI {inbound.sni}: no service {inbound.service}")
                check(
                    lib.dp_snapshot_add_sni(self._snap, _text(inbound.sni), index, inbound.set),
                    f"SNI {inbound.sni}",
                )
        except OverflowError as error:
            raise Rejected(str(error)) from error
        detail = ffi.new("char[]", 512)
        result = lib.dp_snapshot_seal(self._snap, detail, len(detail))
        check(result, ffi.string(detail).decode("utf-8", "replace") or "snapshot")
        return NativeSnapshot(self._snap, leaves, bundles, tuple(self._left_out))

    def _leaf(self, key: str | None, what: str) -> int:
        if key is None:
            return lib.DP_NONE
        try:
            return self._leaves[key]
        except KeyError:
            raise Rejected(f"{what}: no leaf {key}") from None

    def _add_bundles(self) -> dict[Bundle, CData]:
        """A peer's that cannot be read leaves that peer without, and nobody else."""
        bundles = {}
        for each in self._value.bundles:
            try:
                pointer = bundles[each] = self._certificates.bundle(each)
            except NativeError as error:
                if each.trust_domain == self._value.trust_domain:
                    raise
                self._left_out.append(str(error))
                continue
            what = f"bundle of {each.trust_domain}"
            check(lib.dp_snapshot_add_bundle(self._snap, pointer), what)
        return bundles

    def _add_leaves(self) -> dict[Leaf, CData]:
        leaves = {each: self._certificates.leaf(each) for each in self._value.leaves}
        for each, pointer in leaves.items():
            if each.key in self._leaves:
                raise Rejected(f"leaf {each.key} is there twice")
            check(lib.dp_snapshot_add_leaf(self._snap, pointer, self._index), f"leaf {each.key}")
            self._leaves[each.key] = self._index[0]
        if self._value.appliance_leaf is not None:
            index = self._leaf(self._value.appliance_leaf, "the appliance")
            check(lib.dp_snapshot_set_appliance_leaf(self._snap, index), "the appliance's leaf")
        return leaves

    def _set_offload(self) -> None:
        value = self._value.offload
        if value is None:
            return
        native = ffi.new("dp_offload *")
        native.records = value.prefer
        native.tls12 = value.tls12
        native.ciphers = value.ciphers
        native.bytes_min = value.bytes_min
        check(lib.dp_snapshot_set_offload(self._snap, native), "the offload profile")

    def _add_denied(self) -> None:
        for address in self._value.own_addresses:
            check(
                lib.dp_snapshot_add_own_address(self._snap, _bytes16(address)),
                f"own address {address}",
            )
        for denied in self._value.denied:
            if denied.serial is not None:
                try:
                    serial = bytes.fromhex(denied.serial)
                except ValueError:
                    raise Rejected(f"denied serial {denied.serial!r} is not hexadecimal") from None
                domain = _text(denied.trust_domain)
                check(
                    lib.dp_snapshot_add_denied_serial(self._snap, domain, serial, len(serial)),
                    f"denied serial {denied.serial}",
                )
            if denied.spiffe_id is not None:
                check(
                    lib.dp_snapshot_add_denied_id(self._snap, _text(denied.spiffe_id)),
                    f"denied {denied.spiffe_id}",
                )

    def _add_hosts(self) -> None:
        for host in self._value.hosts:
            what, name = f"host {host.name}", _text(host.name)
            leaf = self._leaf(host.leaf, what)
            if host.address is not None:
                address = _bytes16(host.address)
                check(lib.dp_snapshot_add_host(self._snap, address, host.grade, leaf, name), what)
            if host.agent_id is not None:
                agent = _text(host.agent_id)
                check(lib.dp_snapshot_add_agent(self._snap, agent, leaf, name), what)

    def _add_policies(self) -> None:
        rule_index = ffi.new("uint32_t *")
        for policy in self._value.policies:
            if policy.name in self._policies:
                raise Rejected(f"{policy.name} is there twice")
            name = _text(policy.name)
            check(
                lib.dp_snapshot_add_policy(self._snap, policy.action, name, self._index),
                policy.name,
            )
            index = self._policies[policy.name] = self._index[0]
            for rule in policy.rules:
                check(lib.dp_snapshot_add_rule(self._snap, index, rule_index), policy.name)
                for match in rule:
                    check(
                        lib.dp_snapshot_add_match(
                            self._snap, index, rule_index[0], self._match(match)
                        ),
                        policy.name,
                    )

    def _match(self, value: Match) -> CData:
        native = ffi.new("dp_match *")
        native.part = value.part
        native.field = value.field
        native.op = value.op
        native.negated = value.negated
        native.entry = value.entry
        native.port = value.port
        native.number = value.number
        native.text = _string(self._strings, value.text)
        if value.network is not None:
            ffi.buffer(native.addr)[:] = _bytes16(value.network.network_address)
            short = 96 if value.network.version == 4 else 0
            native.prefix_len = value.network.prefixlen + short
        return native

    def _add_service(self, value: Service) -> None:
        what = f"service {value.name}:{value.port}"
        if (value.name, value.port) in self._services:
            raise Rejected(f"{what} is there twice")
        native = ffi.new("dp_service *")
        native.name = _string(self._strings, value.name)
        native.namespace_ = _string(self._strings, value.namespace)
        native.port = value.port
        native.mtls = value.mtls
        native.grade_min = value.grade_min
        native.source_address = value.source_address
        native.leaf = self._leaf(value.leaf, what)
        native.outbound_set = lib.DP_NONE if value.outbound_set is None else value.outbound_set
        native.connect_timeout_ms = value.connect_timeout_ms
        native.attempts_max = value.attempts_max
        native.idle_timeout_ms = value.idle_timeout_ms
        native.duration_max_ms = value.duration_max_ms
        check(lib.dp_snapshot_add_service(self._snap, native, self._index), what)
        index = self._services[(value.name, value.port)] = self._index[0]
        for vip in value.vips:
            check(
                lib.dp_snapshot_add_vip(self._snap, _bytes16(vip), value.port, index),
                f"{what}: {vip}",
            )
        for name in value.policies:
            if name not in self._policies:
                raise Rejected(f"{what}: no policy {name}")
            check(
                lib.dp_snapshot_attach_policy(self._snap, index, self._policies[name]),
                f"{what}: {name}",
            )


RECORDS: Final = {
    "openssl": lib.DP_RECORD_OPENSSL,
    "user": lib.DP_RECORD_USER,
    "ktls": lib.DP_RECORD_KTLS,
}
"""Names of what TLS legs may use for their records."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the engine; the meaning and the unit of each is in dp_config of dp.h."""

    workers: int
    streams_max: int = 65_536
    pipes_max: int = 64
    handshakes_per_turn: int = 8
    sessions_max: int = 4_096
    event_bytes: int = 1 << 20
    handshake_timeout_ms: int = 10_000
    header_timeout_ms: int = 5_000
    update_interval_ms: int = 5_000
    mark: int = 0
    pin: bool = True
    allow_transparent: bool = False
    records: int = RECORDS["user"]


@dataclass(slots=True)
class Engine:
    """The workers. Listeners and pipes first, then start, once; publish before it or after; stop
    joins the threads."""

    settings: Settings
    started: bool = field(default=False, init=False)
    _pointer: CData = field(init=False, repr=False)
    _event_buffer: CData = field(init=False, repr=False)

    def __post_init__(self) -> None:
        config = ffi.new("dp_config *")
        for name in self.settings.__slots__:
            setattr(config, name, getattr(self.settings, name))
        ret = ffi.new("dp_engine **")
        check(lib.dp_engine_new(config, ret), "engine")
        self._pointer = ffi.gc(ret[0], lib.dp_engine_free)
        self._event_buffer = ffi.new("uint8_t[]", EVENT_BYTES)

    def add_transparent(self, fd: int, worker: int) -> None:
        """A listener with IP_TRANSPARENT; the descriptor is duplicated."""
        result = lib.dp_engine_add_listener(self._pointer, fd, lib.DP_LISTEN_TRANSPARENT, worker)
        check(result, f"transparent listener {fd} of worker {worker}")

    def add_mesh(self, fd: int, worker: int) -> None:
        """A listener for peers and agents; the descriptor is duplicated."""
        result = lib.dp_engine_add_listener(self._pointer, fd, lib.DP_LISTEN_MESH, worker)
        check(result, f"mesh listener {fd} of worker {worker}")

    def add_pipe(self, read_fd: int, write_fd: int) -> None:
        """For splicing; both descriptors are duplicated."""
        check(lib.dp_engine_add_pipe(self._pointer, read_fd, write_fd), f"pipe {read_fd}")

    def set_ticket_keys(self, keys: bytes) -> None:
        """n × 80 bytes: the first seals, all open. At any time."""
        count, rest = divmod(len(keys), lib.DP_TICKET_KEY_SIZE)
        if rest or not count:
            raise Rejected(f"ticket keys of {len(keys)} bytes")
        check(lib.dp_engine_set_ticket_keys(self._pointer, keys, count), "ticket keys")

    def start(self) -> None:
        check(lib.dp_engine_start(self._pointer), "start")
        self.started = True

    def publish(self, native: NativeSnapshot) -> int:
        """Hands it over, also on failure. Returns the sequence to wait for in applied()."""
        check(
            lib.dp_engine_publish_take(self._pointer, _disarmed(native.pointer)),
            "publish (too many snapshots are still in use, or a version not above the last)",
        )
        return lib.dp_engine_published(self._pointer)

    def publish_set(self, native: NativeSet) -> int:
        """Hands it over, also on failure. Returns the sequence to wait for in applied()."""
        check(
            lib.dp_engine_publish_set_take(self._pointer, native.id, _disarmed(native.pointer)),
            f"endpoint set {native.id}",
        )
        return lib.dp_engine_published(self._pointer)

    def lose_links(self, addresses: Sequence[Address], seen_ns: int) -> int:
        """The links of these local addresses were lost, as was seen at seen_ns of the monotonic
        clock. Returns the sequence to wait for in applied()."""
        packed = b"".join(map(_bytes16, addresses))
        check(
            lib.dp_engine_lose_links(self._pointer, packed, len(addresses), seen_ns),
            f"lost links of {len(addresses)} addresses",
        )
        return lib.dp_engine_published(self._pointer)

    @property
    def published(self) -> int:
        return lib.dp_engine_published(self._pointer)

    @property
    def applied(self) -> int:
        """The lowest sequence that every worker runs."""
        return lib.dp_engine_applied(self._pointer)

    def collect(self) -> None:
        """Frees what applied publishes have replaced; takes milliseconds if it is large."""
        lib.dp_engine_collect(self._pointer)

    @property
    def live(self) -> int:
        """Streams now."""
        return lib.dp_engine_live(self._pointer)

    def drain(self, deadline_s: float) -> None:
        """Stops accepting; at the deadline what is left is closed. Returns at once."""
        check(lib.dp_engine_drain(self._pointer, int(deadline_s * 1000)), "drain")

    def stop(self) -> None:
        """Closes every stream and joins the threads. Blocks."""
        check(lib.dp_engine_stop(self._pointer), "stop")

    def close(self) -> None:
        ffi.release(self._pointer)

    @property
    def event_fd(self) -> int:
        """Readable when there are events."""
        return check(lib.dp_engine_event_fd(self._pointer), "event descriptor")

    def read_events(self) -> bytes:
        """Whole records, at most EVENT_BYTES; b"" = none."""
        size = check(
            lib.dp_engine_read_events(self._pointer, self._event_buffer, EVENT_BYTES), "events"
        )
        return bytes(ffi.buffer(self._event_buffer, size)) if size else b""

    def counters(self) -> dict[str, int]:
        count = lib.dp_stat_count()
        values = ffi.new("uint64_t[]", count)
        check(lib.dp_engine_read_stats(self._pointer, values, count), "counters")
        return dict(zip(_stat_names(), ffi.unpack(values, count), strict=True))

    def histograms(self) -> dict[str, Histogram]:
        bounds = histogram_bounds()
        buckets = lib.dp_histogram_buckets()
        counts, total = ffi.new("uint64_t[]", buckets), ffi.new("uint64_t *")
        found = {}
        for index in range(lib.dp_histogram_count()):
            name = ffi.string(lib.dp_histogram_name(index)).decode()
            check(
                lib.dp_engine_read_histogram(self._pointer, index, counts, buckets, total),
                name,
            )
            found[name] = Histogram(bounds, tuple(ffi.unpack(counts, len(bounds))), total[0])
        return found


def histogram_bounds() -> tuple[int, ...]:
    """Upper bounds, exclusive, rising; the buckets after the last can hold nothing."""
    bounds = [lib.dp_histogram_bound(each) for each in range(lib.dp_histogram_buckets())]
    return tuple(bounds[: bounds.index(U64_MAX) + 1] if U64_MAX in bounds else bounds)


def _stat_names() -> list[str]:
    return [ffi.string(lib.dp_stat_name(each)).decode() for each in range(lib.dp_stat_count())]


def reason_name(reason: int) -> str:
    return ffi.string(lib.dp_reason_name(reason)).decode()


def fallback_name(fallback: int) -> str:
    return ffi.string(lib.dp_fallback_name(fallback)).decode()


def cipher_name(cipher: int) -> str:
    return ffi.string(lib.dp_cipher_name(cipher)).decode()
