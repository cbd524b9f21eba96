"""What the demo shows, step by step. Owns the order and the claims; each claim is checked."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scapy.utils import RawPcapReader

from appliance.api.text import short_id, size
from appliance.demo.audit import Report, audit
from appliance.demo.commands import Commands, until
from appliance.demo.topology import Host, SiteSpace, Topology
from appliance.errors import ApplianceError

BULK_MIB = 64
CAPTURE_SECONDS_MAX = 900
POLICY = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec:
  mtls: {mode: STRICT}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments-callers, namespace: default}
spec:
  selector: {matchLabels: {app: payments}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["a.example/ns/default/sa/web", "a.example/ns/default/sa/orders"]}
    to:
    - operation: {ports: ["8080"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-batch, namespace: default}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules:
  - from:
    - source: {principals: ["a.example/ns/default/sa/batch"]}
"""


def offload_profile(prefer: str) -> str:
    """A NIC takes TLS 1.2 only."""
    least = "1.2" if prefer == "nic" else "1.3"
    return (
        "apiVersion: sluice.dev/v1\nkind: OffloadProfile\nmetadata: {name: default}\n"
        f'spec: {{prefer: {prefer}, tls: {{minVersion: "{least}"}}}}\n'
    )


class Story:
    def __init__(self, topology: Topology, console: Console, prefer: str | None = None) -> None:
        """prefer: of both sites' OffloadProfile; None = they have none."""
        self._prefer = prefer
        self._topology = topology
        self._console = console
        self._commands = Commands(topology.directory)
        self._a, self._b = topology.sites["a"], topology.sites["b"]
        self._marker = f"sluice-demo-{secrets.token_hex(8)}"
        self._step = 0
        self._failed: list[str] = []
        self._pcap = topology.directory / "mesh.pcap"

    def close(self) -> None:
        self._commands.close()

    def tell(self) -> bool:
        """All steps, in order; whether every claim held."""
        self._say("two sites start: supervisor, daemon, CA, data plane, each as its own user")
        self._topology.start()
        self._processes()
        if self._prefer is not None:
            self._say(f"both sites' OffloadProfile prefers {self._prefer}")
            for site in (self._a, self._b):
                profile = offload_profile(self._prefer)
                self._commands.sluice(site, "apply", "-f", "-", given=profile)
        self._say("hosts enrol: by address and MAC, and two with a key of their own")
        self._enrol()
        self._say("everything on the link between the sites is captured from here on")
        capture = self._commands.keep(
            "capture",
            self._a.python(
                "-m", "appliance.demo.capture", "mesh0", str(self._pcap), str(CAPTURE_SECONDS_MAX)
            ),
        )
        self._say("the sites become peers: trust bundles are exchanged, services flow both ways")
        self._peer()
        self._say("policy on site b: STRICT; payments is for web and orders, never for batch")
        self._commands.sluice(self._b, "apply", "-f", "-", given=POLICY)
        self._say("real clients talk across the sites by mesh name")
        self._traffic()
        counted = self._commands.end(capture)
        self._flows()
        self._say(f"wire audit of the link between the sites ({counted})")
        self._audit(counted)
        return not self._failed

    def hold(self) -> None:
        wrappers = [self._wrapper(site) for site in (self._a, self._b)]
        self._console.print("\n[bold]It is all still up.[/] Look around from another terminal:")
        for site, wrapper in zip((self._a, self._b), wrappers, strict=True):
            self._console.print(
                f"  {wrapper} status | flows | host list | service list | tui"
                f"      # site {site.name}",
                markup=False,
            )
        host = self._a.hosts["a1"]
        self._console.print(
            f"  ip netns exec {host.namespace} curl "
            "http://payments.default.mesh:8080/     # as host web",
            markup=False,
        )
        self._console.print(f"  less {self._a.log}", markup=False)
        self._console.print("Press Enter (or Ctrl-C) to take it all down.")
        sys.stdin.readline()

    # -- steps -----------------------------------------------------------------------------------

    def _processes(self) -> None:
        for site in (self._a, self._b):
            status = self._commands.sluice_json(site, "status")
            line = ", ".join(f"{each['name']} {each['state']}" for each in status["processes"])
            self._note(f"site {site.name}: {status['trust_domain']}: {line}")

    def _enrol(self) -> None:
        for site, name, account, services in (
            (self._a, "a1", "web", ("web:8080",)),
            (self._a, "a2", "batch", ()),
            (self._b, "b1", "payments", ("payments:8080",)),
            (self._b, "b2", "files", ("files:9000",)),
        ):
            host = site.hosts[name]
            added = self._add(site, host, account, services)
            self._note(
                f"{account}: {short_id(added['host']['spiffe_id'])}, no agent, "
                f"grade {added['host']['grade']} ({host.ipv4}, {host.mac})"
            )
        for site, name, account, services in (
            (self._a, "a3", "orders", ()),
            (self._b, "b3", "ledger", ("ledger:8080",)),
        ):
            self._join(site, site.hosts[name], account, services)
        for name in ("web", "payments", "ledger"):
            site = self._a if name == "web" else self._b
            self._serve(
                site.hosts[{"web": "a1", "payments": "b1", "ledger": "b3"}[name]],
                "http",
                "8080",
                f"{self._marker} {name}",
            )
        self._serve(self._b.hosts["b2"], "sink", "9000")

    def _add(
        self, site: SiteSpace, host: Host, account: str, services: tuple[str, ...], *more: str
    ) -> Any:
        arguments = ["host", "add", host.name, "--service-account", account, *more]
        if not more:
            arguments += [
                "--address",
                str(host.ipv4),
                "--address",
                str(host.ipv6),
                "--mac",
                host.mac,
            ]
        for service in services:
            arguments += ["--service", service]
        return self._commands.sluice_json(site, *arguments, "--label", f"app={account}")

    def _join(self, site: SiteSpace, host: Host, account: str, services: tuple[str, ...]) -> None:
        added = self._add(site, host, account, services, "--agent", "--address", str(host.ipv4))
        state = site.directory / f"agent-{host.name}"
        agent = site.directory / f"sluice-agent-{host.name}"
        # The line as it was printed; but no systemd runs here, so the agent is kept and run.
        line = added["join_line"].replace("sudo ", "")
        script = f"{line} --no-service --state {state} && mv $f {agent}"
        joined = self._commands.on(host, "sh", "-c", script, given=added["code"] + "\n")
        if joined.returncode != 0:
            raise ApplianceError(f"{host.name} cannot join: {joined.stderr.strip()[-500:]}")
        self._commands.keep(
            f"agent on {host.name}",
            host.command("/usr/bin/python3", str(agent), "run", "--state", str(state)),
            ready="serving as",
        )
        self._note(
            f"{account}: {short_id(added['host']['spiffe_id'])}, agent, "
            "grade key (its key never leaves the host)"
        )

    def _serve(self, host: Host, kind: str, port: str, *more: str) -> None:
        self._commands.keep(
            f"{kind} on {host.name}",
            host.command(sys.executable, "-m", "appliance.demo.traffic", kind, port, *more),
        )

    def _peer(self) -> None:
        invited = self._commands.sluice_json(self._b, "peer", "invite", "site-a")
        self._commands.sluice(
            self._a, "peer", "add", "site-b", "--address", invited["address"],
            given=invited["code"] + "\n",
        )  # fmt: skip
        for site, wanted in ((self._a, {"payments", "files", "ledger"}), (self._b, {"web"})):
            until(
                f"site {site.name} learning the other's services",
                lambda site=site, wanted=wanted: (
                    wanted
                    <= {  # type: ignore[misc]
                        each["name"]
                        for each in self._commands.sluice_json(site, "service", "list")
                        if each["vips"]
                    }
                ),
            )
        peers = self._commands.sluice_json(self._a, "peer", "list")
        self._note(
            f"site a sees {peers[0]['trust_domain']}, {peers[0]['state']}, "
            f"{peers[0]['imports']} services"
        )

    def _traffic(self) -> None:
        a, b = self._a.hosts, self._b.hosts
        self._curl(a["a1"], "web", "payments")
        self._curl(a["a3"], "orders", "ledger")
        self._curl(b["b1"], "payments", "web")
        sent = self._commands.on(
            a["a1"], sys.executable, "-m", "appliance.demo.traffic", "send",
            "files.default.mesh", "9000", str(BULK_MIB), self._marker,
        )  # fmt: skip
        result = json.loads(sent.stdout) if sent.stdout else {"intact": False}
        self._claim(
            f"web sends {BULK_MIB} MiB to files.default.mesh and gets their SHA-256 back"
            + (f", {result['seconds']} s" if result["intact"] else f": {sent.stderr.strip()}"),
            bool(result["intact"]),
        )
        denied = self._commands.on(
            a["a2"], "curl", "-sS", "--max-time", "20", "http://payments.default.mesh:8080/"
        )
        self._claim(
            f"batch is refused by payments: curl says «{denied.stderr.strip()}»",
            denied.returncode != 0 and self._marker not in denied.stdout,
        )

    def _curl(self, host: Host, who: str, service: str) -> None:
        url = f"http://{service}.default.mesh:8080/"
        got = self._commands.on(host, "curl", "-sS", "--max-time", "20", url)
        good = f"{self._marker} {service}" in got.stdout
        self._claim(f"{who} reads {url}" + ("" if good else f": {got.stderr.strip()}"), good)

    def _flows(self) -> None:
        self._say("flows as site a recorded them")
        until("the flows being recorded", lambda: len(self._source_flows()) >= 4)
        flows = self._source_flows()
        table = Table(box=None, pad_edge=False)
        for heading in (
            "source",
            "destination",
            "grade",
            "TLS",
            "cipher",
            "record layer",
            "bytes",
            "connect",
            "result",
        ):
            table.add_column(heading, overflow="fold")
        for flow in flows:
            result = flow["state"]
            if flow["state"] == "refused":
                result = f"[red]{flow['reason']}[/] {flow['detail']}"
            table.add_row(
                short_id(flow["source"]),
                short_id(flow["destination"]) if flow["destination"] else flow["service"],
                flow["grade"], flow["tls_version"] or "-", flow["cipher"] or "-",
                f"{flow['down_layer']} > {flow['up_layer']}",
                size(flow["bytes_up"] + flow["bytes_down"]), f"{flow['connect_ms']:.1f} ms", result,
            )  # fmt: skip
        self._console.print(table)
        rules = [flow["detail"] for flow in flows if flow["state"] == "refused"]
        self._claim(
            "the source's side names the rule that denied batch",
            any("no-batch" in rule for rule in rules),
        )
        mesh = [flow for flow in flows if flow["state"] != "refused"]
        # Both sites prefer the NIC: all that crosses is of the version that it takes.
        version = "1.2" if self._prefer == "nic" else "1.3"
        self._claim(
            f"every flow that crossed is TLS {version} with both identities",
            bool(mesh)
            and all(
                flow["tls_version"] == f"TLSv{version}" and flow["source"] and flow["destination"]
                for flow in mesh
            ),
        )

    def _source_flows(self) -> list[Any]:
        flows = self._commands.sluice_json(self._a, "flows")
        return [flow for flow in flows if flow["kind"] == "outbound"]

    def _audit(self, counted: str) -> None:
        self._claim("the capture lost no frame", counted.endswith("dropped 0"))
        report = self._judge(self._pcap)
        self._note(
            f"{report.frames} frames, {report.tls_streams} TLS streams, "
            f"{size(report.tls_bytes)} of records"
        )
        for what, count in report.permitted:
            self._note(f"permitted beside TLS: {what}, {count} frames")
        for problem in report.problems[:10]:
            self._note(f"[red]{problem}[/]")
        self._claim(
            "nothing readable crossed: no payload marker, no stream that is not TLS",
            report.clean and report.tls_bytes > BULK_MIB << 20,
        )

    def _judge(self, pcap: Path) -> Report:
        with RawPcapReader(str(pcap)) as reader:
            return audit((data for data, _ in reader), [self._marker.encode()])

    def _wrapper(self, site: SiteSpace) -> Path:
        """A script that runs `sluice` on a site's appliance."""
        path = site.directory / "sluice"
        command = site.python(
            "-m", "appliance.cli", "--run", str(site.paths.run), "--state", str(site.paths.state)
        )
        quoted = " ".join("'" + part.replace("'", "'\\''") + "'" for part in command)
        variables = " ".join(f"{key}='{value}'" for key, value in site.environment().items())
        path.write_text(f'#!/bin/sh\nexec env {variables} TERM="$TERM" {quoted} "$@"\n')
        path.chmod(0o755)
        return path

    # -- telling ---------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._step += 1
        self._console.print(f"[bold]{self._step}. {text}[/]", soft_wrap=True)

    def _note(self, text: str) -> None:
        self._console.print(f"   {text}", soft_wrap=True)

    def _claim(self, text: str, good: bool) -> None:
        mark = "[green]yes[/]" if good else "[red]NO[/] "
        self._console.print(f"   {mark} {text}", soft_wrap=True)
        if not good:
            self._failed.append(text)
