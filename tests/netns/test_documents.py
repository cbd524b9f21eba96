"""Documents as an admin applies them with `sluice`: mistakes with file, line and path, nothing
applied by halves, and the ways back.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import yaml

from appliance.api.client import AdminClient
from appliance.errors import Conflict
from tests.netns.helpers import REFUSED, until
from tests.netns.mesh import GOOD_POLICY, STRICT, Mesh
from tests.netns.test_policy import authentication, authorization

ISTIO = Path(__file__).parents[1] / "data" / "istio"
CONFLICT, BAD_INPUT, NOT_FOUND = 4, 2, 3

BAD = {
    "unknown field": (
        """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec:
  mtls:
    mode: STRICT
  mtsl:
    mode: STRICT
""",
        7, "spec.mtsl", "did you mean mtls?",
    ),
    "wrong type": (
        """\
apiVersion: sluice.dev/v1
kind: Service
metadata: {name: shop}
spec:
  ports:
  - port: eighty
""",
        6, "spec.ports[0].port", "",
    ),
    "wrong value": (
        """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec:
  mtls: {mode: SOMETIMES}
""",
        5, "spec.mtls.mode", "STRICT",
    ),
    "duplicate": (STRICT + "---\n" + STRICT, 8, "metadata.name", "duplicate"),
    "reference to nothing": (
        """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nothing}
spec:
  host: nothing
""",
        5, "spec.host", "there is no service nothing.default",
    ),
    "unknown kind": ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", 2, "kind", "not a kind"),
    "a later version's": (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\n"
        "spec: {hosts: [web]}\n",
        2, "kind", "not in this version",
    ),
    "not YAML": ("apiVersion: [\n", 2, "", ""),
    "an alias bomb": ("a: &a [x]\nb: *a\n", 1, "", ""),
    "no document": ("- 1\n- 2\n", 1, "", "not a document"),
}  # fmt: skip


def file(directory: Path, text: str, name: str = "some.yaml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_shown_with_its_place_and_nothing_is_applied(
    mesh: Mesh, tmp_path: Path, what: str
) -> None:
    text, at, path, says = BAD[what]
    good, bad = file(tmp_path, GOOD_POLICY, "good.yaml"), file(tmp_path, text, "bad.yaml")
    before = mesh.status(mesh.a)
    done = mesh.cli(mesh.a, "apply", "-f", good, "-f", bad)
    assert done.returncode == BAD_INPUT, done
    said = done.stderr
    assert f"{bad}:{at}: {path}{': ' if path else ''}" in said
    assert says in said
    assert "Traceback" not in said
    after = mesh.status(mesh.a)
    assert (after.revision, after.published) == (before.revision, before.published)
    documents = mesh.call(mesh.a, lambda client: client.documents())
    assert [document.name for document in documents] == ["default"]


def test_all_mistakes_are_told_at_once(mesh: Mesh, tmp_path: Path) -> None:
    places = ("unknown field", "wrong type")
    names = [file(tmp_path, BAD[what][0], f"{n}.yaml") for n, what in enumerate(places)]
    done = mesh.cli(mesh.a, "apply", "-f", str(tmp_path))
    assert done.returncode == BAD_INPUT
    for name, what in zip(names, places, strict=True):
        assert f"{name}:{BAD[what][1]}: {BAD[what][2]}" in done.stderr


def test_a_file_that_is_not_there(mesh: Mesh, tmp_path: Path) -> None:
    done = mesh.cli(mesh.a, "apply", "-f", str(tmp_path / "none.yaml"))
    assert done.returncode == BAD_INPUT
    assert "none.yaml: No such file" in done.stderr
    done = mesh.cli(mesh.a, "apply", "-f", str(tmp_path))
    assert done.returncode == BAD_INPUT
    assert "no *.yaml file there" in done.stderr


def test_a_dry_run_shows_and_changes_nothing(mesh: Mesh, tmp_path: Path) -> None:
    deny = authorization("DENY", "[{}]", "all", "web")
    before = mesh.status(mesh.a)
    name = file(tmp_path, deny)
    done = mesh.cli(mesh.a, "apply", "-f", name, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "AuthorizationPolicy default/all created" in done.stdout
    assert "+  action: DENY" in done.stdout
    shown = mesh.cli(mesh.a, "diff", "-f", name)
    assert "+  action: DENY" in shown.stdout
    after = mesh.status(mesh.a)
    assert (after.revision, after.published) == (before.revision, before.published)
    assert mesh.ask("a3", "web", 8080).startswith("web")


def test_what_istio_writes_is_taken_as_it_stands(mesh: Mesh) -> None:
    rules = sorted(ISTIO.glob("destinationrule-*.yaml"))
    assert len(rules) == 2
    files = [argument for rule in rules for argument in ("-f", str(rule))]
    done = mesh.cli(mesh.a, "apply", *files)
    assert done.returncode == BAD_INPUT  # there is no such service yet
    for rule in rules:
        assert f"{rule}:6: spec.host: there is no service" in done.stderr
    with (
        mesh.guest("198.18.0.61", "pay1", services=["payment-service:80"]),
        mesh.guest("198.18.0.62", "prod1", services=["product-service:80"],
                   labels={"version": "v1"}),
        mesh.guest("198.18.0.63", "prod2", services=["product-service:80"],
                   labels={"version": "v2"}),
    ):  # fmt: skip
        done = mesh.cli(mesh.a, "apply", *files)
        assert done.returncode == 0, done.stderr
        for name in ("payment-service", "product-service"):
            assert f"DestinationRule default/{name} created" in done.stdout
        mesh.apply(mesh.a, STRICT, replace=True)


def test_what_is_got_can_be_applied_again(mesh: Mesh, tmp_path: Path) -> None:
    mesh.apply(mesh.a, authorization("DENY", "[{from: [{source: {namespaces: [x]}}]}]", "x", "web"))
    got = mesh.cli(mesh.a, "get", "-o", "yaml")
    assert got.returncode == 0
    done = mesh.cli(mesh.a, "apply", "-f", file(tmp_path, got.stdout), "-o", "json")
    assert done.returncode == 0, done.stderr
    assert {change["what"] for change in json.loads(done.stdout)["changes"]} == {"unchanged"}
    assert len(list(yaml.safe_load_all(got.stdout))) == 2


# -- ways back -------------------------------------------------------------------------------------


def test_a_change_reverts_unless_it_is_confirmed(mesh: Mesh, tmp_path: Path) -> None:
    before = mesh.status(mesh.a).revision
    deny = file(tmp_path, authorization("DENY", "[{}]", "all", "web"))
    since = time.time()
    done = mesh.cli(mesh.a, "apply", "-f", deny, "--confirm", "20s")
    assert done.returncode == 0, done.stderr
    assert "sluice confirm" in done.stdout
    assert mesh.ask("a3", "web", 8080) in REFUSED
    assert mesh.status(mesh.a).pending.revision == before + 1
    until("the revert", lambda: not mesh.status(mesh.a).HasField("pending"))
    assert time.time() >= since + 19
    assert mesh.status(mesh.a).revision == before
    until("the traffic", lambda: mesh.ask("a3", "web", 8080).startswith("web"))
    assert mesh.audited(mesh.a, since, "revert")
    history = mesh.call(mesh.a, lambda client: client.history())
    assert (history[0].revision, history[0].state) == (before + 1, "reverted")


def test_one_change_waits_at_a_time_and_confirming_keeps_it(mesh: Mesh, tmp_path: Path) -> None:
    deny = file(tmp_path, authorization("DENY", "[{}]", "all", "web"), "deny.yaml")
    other = file(tmp_path, GOOD_POLICY, "other.yaml")
    assert mesh.cli(mesh.a, "apply", "-f", deny, "--confirm", "5m").returncode == 0
    done = mesh.cli(mesh.a, "apply", "-f", other)
    assert done.returncode == CONFLICT
    assert "waits to be confirmed: run `sluice confirm`" in done.stderr
    with pytest.raises(Conflict):
        mesh.call(mesh.a, lambda client: client.rollback(1))
    with pytest.raises(Conflict):
        mesh.call(mesh.a, lambda c: c.delete("PeerAuthentication", "default", "default"))
    mesh.apply(mesh.a, GOOD_POLICY, dry_run=True)
    assert mesh.cli(mesh.a, "confirm").returncode == 0
    assert mesh.ask("a3", "web", 8080) in REFUSED
    mesh.apply(mesh.a, GOOD_POLICY)
    done = mesh.cli(mesh.a, "confirm")
    assert done.returncode == CONFLICT
    assert "nothing waits" in done.stderr


def test_a_pending_change_can_be_called_off(mesh: Mesh) -> None:
    before = mesh.status(mesh.a).revision
    mesh.apply(mesh.a, authorization("DENY", "[{}]", "all", "web"), confirm_seconds=300)
    assert mesh.ask("a3", "web", 8080) in REFUSED
    assert mesh.cli(mesh.a, "confirm", "--cancel").returncode == 0
    assert mesh.status(mesh.a).revision == before
    assert mesh.ask("a3", "web", 8080).startswith("web")


def test_enrolment_goes_on_while_a_change_waits_and_does_not_revert(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authorization("DENY", "[{}]", "all", "web"), confirm_seconds=300)
    address = "198.18.0.64"
    with mesh.guest(address, "during"):
        mesh.call(mesh.a, lambda client: client.confirm(cancel=True))
        assert mesh.ask("a2", "web", 8080, source=address).startswith("web")


def test_rolling_back_diffing_and_history(mesh: Mesh) -> None:
    first = mesh.status(mesh.a).revision
    second = int(mesh.apply(mesh.a, authentication("PERMISSIVE")).revision)
    assert mesh.ask("a2", "web", 8080).startswith("web")
    shown = mesh.cli(mesh.a, "diff", str(first), str(second)).stdout
    assert "-    mode: STRICT" in shown
    assert "+    mode: PERMISSIVE" in shown
    assert mesh.cli(mesh.a, "diff").stdout == shown
    dry = mesh.cli(mesh.a, "rollback", str(first), "--dry-run")
    assert dry.returncode == 0
    assert mesh.status(mesh.a).revision == second
    done = mesh.cli(mesh.a, "rollback", str(first))
    assert done.returncode == 0, done.stderr
    assert mesh.ask("a2", "web", 8080) in REFUSED
    revisions = mesh.call(mesh.a, lambda client: client.history())
    assert [each.revision for each in revisions[:2]] == [second + 1, second]
    assert revisions[0].summary == f"back to revision {first}"
    assert {each.by for each in revisions[:2]} == {"uid 0"}
    missing = mesh.cli(mesh.a, "rollback", "9999")
    assert missing.returncode == NOT_FOUND
    assert "there is no revision 9999" in missing.stderr


def test_deleting(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authorization("DENY", "[{}]", "all", "web"))
    assert mesh.ask("a3", "web", 8080) in REFUSED
    assert mesh.cli(mesh.a, "delete", "authorizationpolicy", "all", "--dry-run").returncode == 0
    assert mesh.ask("a3", "web", 8080) in REFUSED
    assert mesh.cli(mesh.a, "delete", "authorizationpolicy", "all").returncode == 0
    assert mesh.ask("a3", "web", 8080).startswith("web")
    again = mesh.cli(mesh.a, "delete", "authorizationpolicy", "all")
    assert again.returncode == NOT_FOUND
    assert "there is no AuthorizationPolicy default/all" in again.stderr


def test_two_applies_at_once_are_one_after_the_other(mesh: Mesh) -> None:
    """Both are in, or one said why not; no revision is a mix."""

    async def both() -> list[object]:
        async def one(name: str) -> object:
            async with AdminClient(mesh.a.paths) as client:
                return await client.apply([("x", GOOD_POLICY.replace("good", name))])

        return await asyncio.gather(*(one(f"p{n}") for n in range(8)), return_exceptions=True)

    results = asyncio.run(both())
    assert not [result for result in results if isinstance(result, BaseException)], results
    names = {document.name for document in mesh.call(mesh.a, lambda c: c.documents())}
    assert names == {"default", *(f"p{n}" for n in range(8))}
    with pytest.raises(Conflict, match="nothing waits"):
        mesh.call(mesh.a, lambda client: client.confirm())
