"""Two whole sites, peers of each other, with hosts of every grade: what most tests here share.

    a1 web (l2) ──────┐                                    ┌────── b1 payments (l2) 8080 8081
    a2 not enrolled ──┤ switch ── [a] ══ mesh0 ══ [b] ── switch ├── b2 files (l3) 9000
    a3 orders (key) ──┘ own port               own port └──── b3 ledger (key) 8080

web and payments have the same addresses, each at its site. Both sites begin with one document:
PeerAuthentication STRICT in namespace default. a2 is where tests put hosts of their own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.api._gen import admin_pb2 as pb
from appliance.api.client import AdminClient
from appliance.ca import key as ca_key
from appliance.ca.issue import Authority, issue, random_serial
from appliance.demo.commands import Commands
from appliance.demo.topology import Host, SiteSpace, Topology
from dataplane.snapshot import Grade
from tests.netns.helpers import Answerer, ask, run, until

STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""
GOOD_POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{from: [{source: {namespaces: [nobody]}}]}]
"""
SERVICES = {
    "web": ("a", "a1", (8080,)),
    "payments": ("b", "b1", (8080, 8081)),
    "files": ("b", "b2", (9000,)),
    "ledger": ("b", "b3", (8080,)),
}
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key in files; as a pair for ssl."""

    files: tuple[Path, Path]
    serial: str
    not_after: int


class Mesh:
    """The running pair. Calls go to the daemons' admin sockets, as root."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.a, self.b = topology.sites["a"], topology.sites["b"]
        self.commands = Commands(topology.directory)
        self._servers = ExitStack()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.topology.start()
        for name, host in (("web", "a1"), ("payments", "b1"), ("files", "b2")):
            site = self.topology.sites[host[0]]
            self.add(site, name, site.hosts[host], mac=name != "files")
        self.join(self.a, "orders", self.a.hosts["a3"])
        self.join(self.b, "ledger", self.b.hosts["b3"])
        for name, (site_name, host, ports) in SERVICES.items():
            namespace = self.topology.sites[site_name].hosts[host].namespace
            for port in ports:
                self._servers.enter_context(Answerer(namespace, name, port))
        self.peer()
        for site in (self.a, self.b):
            self.apply(site, STRICT, replace=True)

    def close(self) -> None:
        self._servers.close()
        self.commands.close()

    def add(
        self,
        site: SiteSpace,
        name: str,
        host: Host | None = None,
        *,
        addresses: Sequence[str] = (),
        mac: bool = False,
        agent: bool = False,
        account: str = "",
        labels: dict[str, str] | None = None,
        services: Sequence[str] | None = None,
    ) -> pb.AddHostReply:
        if host is not None and not addresses:
            addresses = [str(host.ipv4)] if agent else [str(host.ipv4), str(host.ipv6)]
        if services is None:
            services = [f"{name}:{port}" for port in SERVICES.get(name, ("", "", ()))[2]]
        request = pb.AddHostRequest(
            name=host.name if host is not None else name,
            service_account=account or name,
            agent=agent,
            addresses=addresses,
            mac=host.mac if host is not None and mac else "",
            services=services,
            labels=labels if labels is not None else {"app": name},
        )
        return self.call(site, lambda client: client.add_host(request))

    def join(self, site: SiteSpace, name: str, host: Host) -> subprocess.Popen[bytes]:
        """Enrols a host with a key of its own and runs its agent, which it returns."""
        added = self.add(site, name, host, agent=True)
        joined = self.paste(site, host, added.join_line, added.code)
        assert joined.returncode == 0, joined.stderr
        return self.run_agent(site, host)

    def paste(
        self, site: SiteSpace, host: Host, join_line: str, code: str
    ) -> subprocess.CompletedProcess[str]:
        """The line that `sluice host add` printed, on the host; no systemd runs there."""
        text = join_line.replace("sudo ", "")
        state, agent = self.agent_state(site, host), self.agent_file(site, host)
        script = f"{text} --no-service --state {state} && mv $f {agent}"
        return run(host.command("sh", "-c", script), given=code + "\n")

    def run_agent(self, site: SiteSpace, host: Host) -> subprocess.Popen[bytes]:
        return self.commands.keep(
            f"agent-{host.name}",
            host.command("/usr/bin/python3", str(self.agent_file(site, host)), "run",
                         "--state", str(self.agent_state(site, host))),
            ready="serving as",
        )  # fmt: skip

    def agent_state(self, site: SiteSpace, host: Host) -> Path:
        return site.directory / f"agent-{host.name}"

    def agent_file(self, site: SiteSpace, host: Host) -> Path:
        return site.directory / f"sluice-agent-{host.name}"

    def peer(self) -> None:
        invited = self.call(self.b, lambda client: client.invite_peer("site-a"))
        self.call(self.a, lambda client: client.add_peer("site-b", invited.address, invited.code))
        for name in SERVICES:
            for site in (self.a, self.b):
                self.vip(site, name)

    # -- asking the daemons ----------------------------------------------------------------------

    def call(self, site: SiteSpace, act: Callable[[AdminClient], Awaitable[R]]) -> R:
        """Raises ApplianceError."""

        async def go() -> R:
            async with AdminClient(site.paths) as client:
                return await act(client)

        return asyncio.run(go())

    def apply(self, site: SiteSpace, text: str, **more: Any) -> pb.ApplyReply:
        return self.call(site, lambda client: client.apply([("test.yaml", text)], **more))

    def status(self, site: SiteSpace) -> pb.Status:
        return self.call(site, lambda client: client.status())

    def counter(self, site: SiteSpace, name: str) -> int:
        counters = self.status(site).counters
        assert name in counters, f"there is no counter {name}: {sorted(counters)}"
        return int(counters[name])

    @contextmanager
    def counts(self, site: SiteSpace, name: str, by: int = 1) -> Iterator[None]:
        """What is done in it raises the data plane's counter, soon."""
        before = self.counter(site, name)
        yield
        until(f"{name} rising at site {site.name}",
              lambda: self.counter(site, name) >= before + by)  # fmt: skip

    def flows(self, site: SiteSpace, since: float = 0.0, **wanted: str) -> list[pb.Flow]:
        """Newest first. since: UNIX time; those that began later, for how older ones end may be
        told later too. wanted: fields and what they must be."""
        flows = self.call(site, lambda client: client.flows(limit=5000)).flows
        return [
            flow
            for flow in flows
            if flow.time_ms + 1 - flow.duration_ms >= since * 1000  # it is cut to whole ones
            and all(getattr(flow, name) == value for name, value in wanted.items())
        ]

    def flow(self, site: SiteSpace, since: float, **wanted: str) -> pb.Flow:
        """Waits for one."""
        what = f"a flow at site {site.name} with {wanted}"
        return until(what, lambda: self.flows(site, since, **wanted))[0]

    def audited(self, site: SiteSpace, since: float, what: str) -> list[pb.AuditEntry]:
        entries = self.call(site, lambda client: client.audit())
        return [each for each in entries if each.time >= int(since) and each.what == what]

    def vip(self, site: SiteSpace, service: str, version: int = 4) -> str:
        """Waits for the service's virtual address at the site."""

        def found() -> str:
            for each in self.call(site, lambda client: client.services()):
                if each.name == service:
                    return next((v for v in each.vips if (":" in v) == (version == 6)), "")
            return ""

        return until(f"a virtual address of {service} at site {site.name}", found)

    def cli(
        self,
        site: SiteSpace,
        *arguments: str,
        given: str = "",
        run_as: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """`sluice …` as a process; as root unless a setpriv line says otherwise."""
        command = site.python(
            "-m", "appliance.cli", "--run", str(site.paths.run),
            "--state", str(site.paths.state), *arguments, run_as=run_as,
        )  # fmt: skip
        return run(command, given, env=site.environment(), cwd="/")

    # -- traffic ---------------------------------------------------------------------------------

    def ask(
        self, host: str, service: str, port: int, version: int = 4, source: str | None = None
    ) -> str:
        """The service's first line as a host gets it, or how it went wrong."""
        site = self.topology.sites[host[0]]
        address = self.vip(site, service, version)
        return ask(site.hosts[host].namespace, address, port, source)

    @contextmanager
    def guest(
        self, address: str, name: str, host: str = "a2", **more: Any
    ) -> Iterator[pb.AddHostReply]:
        """A host of the test's own: one more address on a2 (or b2), known by it alone (l3)."""
        site = self.topology.sites[host[0]]
        with self.address(address, host):
            added = self.add(site, name, addresses=[address], **more)
            try:
                yield added
            finally:
                self.call(site, lambda client: client.remove_host(name))

    @contextmanager
    def address(self, address: str, host: str = "a2") -> Iterator[str]:
        """One more address on a host, not enrolled."""
        site = self.topology.sites[host[0]]
        space = site.hosts[host]
        length = "64" if ":" in address else "24"
        extra = ("nodad",) if ":" in address else ()
        where = ("ip", "-n", space.namespace, "addr")
        run((*where, "add", f"{address}/{length}", "dev", "eth0", *extra))
        try:
            yield address
        finally:
            run((*where, "del", f"{address}/{length}", "dev", "eth0"))

    # -- forging ---------------------------------------------------------------------------------

    def authority(self, site: SiteSpace) -> Authority:
        """The site's CA, stolen."""
        return ca_key.load_or_create(site.paths.ca_state, site.site.trust_domain, 0)

    def forge(
        self,
        authority: Authority,
        spiffe_id: str,
        directory: Path,
        *,
        grade: Grade | None = Grade.L2,
        now: float | None = None,
        ttl_s: int = 3600,
    ) -> Credentials:
        """A leaf with a key of the test's own, as the CA would sign it."""
        key, csr = new_key()
        at = int(time.time() if now is None else now)
        signed = issue(authority, csr, spiffe_id, grade, ttl_s, at, random_serial())
        return write(directory, key, signed.chain_pem, signed.serial, signed.not_after)


def new_key() -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateSigningRequest]:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return key, csr.sign(key, hashes.SHA256())


def write(
    directory: Path,
    key: ec.EllipticCurvePrivateKey,
    chain_pem: str,
    serial: str = "",
    not_after: int = 0,
) -> Credentials:
    number = len(list(directory.iterdir()))
    chain, secret = directory / f"{number}.crt", directory / f"{number}.key"
    chain.write_text(chain_pem)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Credentials((chain, secret), serial, not_after)


def parsed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
