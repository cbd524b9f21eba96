"""Documents: what loads, and what is refused with file, line, path and a way out."""

from pathlib import Path

import pytest

from appliance.config import istio, own
from appliance.config.field import Spec
from appliance.config.load import NAME_MAX, Known, Source, load
from appliance.config.model import (
    KINDS,
    Document,
    Model,
    changes,
    diff,
    dump,
    merge,
    without,
)
from appliance.config.notes import DocumentErrors
from appliance.config.tree import BYTES_MAX, DOCUMENTS_MAX, TreeError, documents, parts
from appliance.identity import LABEL_MAX
from dataplane._native import lib

DATA = Path(__file__).parents[3] / "data" / "istio"

HEAD = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
POLICY = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
ENTRY = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n"


def loaded(text: str) -> Model:
    return load([Source("a.yaml", text)])


def refusals(*texts: str) -> list[str]:
    with pytest.raises(DocumentErrors) as caught:
        load([Source(f"{name}.yaml", text) for name, text in zip("ab", texts, strict=False)])
    return [str(note) for note in caught.value.notes]


@pytest.mark.parametrize("name", ["destinationrule-product", "destinationrule-payment-outlier"])
def test_articles_rules_load_as_they_stand(name: str) -> None:
    text = (DATA / f"{name}.yaml").read_text()
    model = load([Source(name, text)])
    assert len(model.of(istio.DestinationRule)) == 1
    assert load([Source("again", dump(model))]) == model


@pytest.mark.parametrize("name", ["virtualservice-product", "virtualservice-payment-fault"])
def test_virtual_service_is_refused_in_one_line(name: str) -> None:
    (line,) = refusals((DATA / f"{name}.yaml").read_text())
    assert line.startswith("a.yaml:2: kind: VirtualService: ")
    assert "not in this version" in line


def test_outlier_detection_by_its_old_name() -> None:
    (doc,) = load([Source("x", (DATA / "destinationrule-payment-outlier.yaml").read_text())]).of(
        istio.DestinationRule
    )
    assert doc.spec.traffic_policy is not None
    outlier = doc.spec.traffic_policy.outlier_detection
    assert outlier is not None
    assert outlier.consecutive_errors == 5
    assert outlier.base_ejection_time is not None
    assert outlier.base_ejection_time.ms == 900_000
    assert outlier.max_ejection_percent == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + "spec: {host: a, hots: b}",
            "a.yaml:4: spec.hots: unknown field: did you mean host?",
        ),
        (HEAD + "spec: {}", "a.yaml:4: spec.host: missing: add it"),
        (HEAD + "spec: {host: 5}", "a.yaml:4: spec.host: not text: put it in quotes"),
        (HEAD + "spec:\n  host: a\n  subsets: {}", "a.yaml:6: spec.subsets: not a list"),
        (HEAD + "spec: []", "a.yaml:4: spec: not a mapping"),
        (HEAD + "status: {}\nspec: {host: a}", "a.yaml:4: status: unknown field"),
        (HEAD + "spec:\n  host: a\n  host: b", "a.yaml:6: duplicate key 'host': it is on line 5"),
        (HEAD + "spec:\n  host: a\n  subsets:\n  - {name: V1}", "a.yaml:7: spec.subsets[0].name: "),
        (
            HEAD + "spec:\n  host: a\n  trafficPolicy:\n    connectionPool:\n      tcp:\n"
            "        connectTimeout: 3 weeks",
            "a.yaml:9: spec.trafficPolicy.connectionPool.tcp.connectTimeout: write a duration",
        ),
        (
            HEAD + "spec:\n host: a\n trafficPolicy: {connectionPool: {tcp: {maxConnections: no}}}",
            "a.yaml:6: spec.trafficPolicy.connectionPool.tcp.maxConnections: not a whole number",
        ),
        (
            HEAD + "spec: {host: a, trafficPolicy: {loadBalancer: {consistentHash: {}}}}",
            "a.yaml:4: spec.trafficPolicy.loadBalancer.consistentHash: consistent hashing is not",
        ),
        (
            HEAD + "spec: {host: a, trafficPolicy: {tls: {mode: SIMPLE}}}",
            "a.yaml:4: spec.trafficPolicy.tls.mode: SIMPLE: TLS to plain endpoints",
        ),
        (
            HEAD + "spec: {host: a, trafficPolicy: {proxyProtocol: {}}}",
            "a.yaml:4: spec.trafficPolicy.proxyProtocol.version: V1: write version: V2",
        ),
        (
            HEAD.replace("name: a", "name: A") + "spec: {host: a}",
            "a.yaml:3: metadata.name: malformed",
        ),
        (
            HEAD.replace("name: a", f"name: {'a' * 129}") + "spec: {host: a}",
            "a.yaml:3: metadata.name: longer than 128 characters: shorten it",
        ),
        (
            HEAD.replace("name: a", f"name: a, namespace: {'n' * 64}") + "spec: {host: a}",
            "a.yaml:3: metadata.namespace: malformed: use lower case letters, digits and hyphens,"
            " at most 63",
        ),
        (
            ENTRY.replace("ServiceEntry", "WorkloadEntry")
            + f"spec: {{address: 10.0.0.1, serviceAccount: {'s' * 64}}}",
            "a.yaml:4: spec.serviceAccount: malformed: ",
        ),
        *(
            (
                POLICY + f'spec: {{rules: [{{from: [{{source: {{{field}: ["{text}"]}}}}]}}]}}',
                f"a.yaml:4: spec.rules[0].from[0].source.{field}[0]: {said}",
            )
            for field, text, said in (
                ("principals", "cluster.local/" + "p" * 192, "longer than any name: write at"),
                ("notPrincipals", "*/" + "p" * 192, "longer than any name: write at"),
                ("trustDomains", "t" * 256, "longer than any name: write at most 255 bytes"),
                ("namespaces", "\u00f6" * 128, "longer than any name: write at most 255 bytes"),
                ("namespaces", "a\\0", "a control character: remove it"),
                ("serviceAccounts", "s" * 64, "no service account: write "),
                ("serviceAccounts", "n" * 64 + "/s", "no service account: write "),
                ("serviceAccounts", "", "no service account: write "),
                ("serviceAccounts", "a/b/c", "no service account: write "),
                ("serviceAccounts", "n/*", "wildcards are not for service accounts"),
            )
        ),
        (
            POLICY
            + f"spec: {{rules: [{{when: [{{key: connection.sni, values: [{'s' * 256}]}}]}}]}}",
            f"a.yaml:4: spec.rules[0].when[0]: '{'s' * 80}': longer than any name",
        ),
        (HEAD.replace("/v1", "/v9") + "spec: {host: a}", "a.yaml:2: kind: networking.istio.io/v9"),
        (
            HEAD.replace("networking", "net") + "spec: {host: a}",
            "a.yaml:2: kind: DestinationRule is",
        ),
        ("kind: x", "a.yaml:1: apiVersion: missing or not text"),
        ("- a", "a.yaml:1: not a document"),
        ("apiVersion: a/v1\nkind: Nothing", "a.yaml:2: kind: 'Nothing' is not a kind known here"),
        ("a: [", "a.yaml:2: not YAML"),
        ("a: !!python/object:os.system {}", "a.yaml:1: the tag"),
        ("? [a]\n: b", "a.yaml:1: a key is not text"),
        ("1: 2\n? {}\n", "a.yaml:2: a key is not text"),
        (
            POLICY + "spec:\n  rules:\n  - from:\n    - source: {principals: x}",
            "a.yaml:7: spec.rules[0].from[0].source.principals: not a list",
        ),
        (
            POLICY + "spec: {action: CUSTOM}",
            "a.yaml:4: spec.action: CUSTOM: external authorization",
        ),
        (
            POLICY + "spec: {rules: [{to: [{operation: {ports: ['70000']}}]}]}",
            "a.yaml:4: spec.rules[0].to[0].operation.ports[0]: write a port",
        ),
        (
            POLICY + "spec: {rules: [{to: [{operation: {ports: ['00000170000']}}]}]}",
            "a.yaml:4: spec.rules[0].to[0].operation.ports[0]: write a port",
        ),
        (
            POLICY + "spec: {rules: [{when: [{key: destination.port, values: ['0080']}]}]}",
            "a.yaml:4: spec.rules[0].when[0]: '0080': write a port",
        ),
        (
            POLICY + "spec: {rules: [{when: [{key: source.ip, values: ['::ffff:10.0.0.1']}]}]}",
            "a.yaml:4: spec.rules[0].when[0]: '::ffff:10.0.0.1': IPv4 written as IPv6: write 10.",
        ),
        (
            POLICY + "spec: {rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/120']}}]}]}",
            "a.yaml:4: spec.rules[0].from[0].source.ipBlocks[0]: IPv4 written as IPv6: write "
            "10.0.0.0/24",
        ),
        *(
            (
                f"apiVersion: {kind}\nmetadata: {{name: a}}\nspec: {spec}",
                f"a.yaml:4: spec.{path}: {said}",
            )
            for kind, spec, path in (
                ("sluice.dev/v1\nkind: Host", "{addresses: ['%s']}", "addresses[0]"),
                ("networking.istio.io/v1\nkind: WorkloadEntry", "{address: '%s'}", "address"),
                ("networking.istio.io/v1\nkind: ServiceEntry",
                 "{hosts: [a], ports: [{number: 1, name: a}], resolution: STATIC,"
                 " endpoints: [{address: '%s'}]}", "endpoints[0].address"),
                ("sluice.dev/v1\nkind: Service", "{ports: [{port: 1}], addresses: ['%s']}",
                 "addresses[0]"),
            )
            for spec, said in (
                (spec % "::ffff:198.18.0.11",
                 "'::ffff:198.18.0.11' is IPv4 written as IPv6: write 198.18.0.11"),
                (spec % "fe80::1%eth0", "'fe80::1%eth0' has a zone"),
                (spec % "127.0.0.1", "'127.0.0.1' is an address that no other machine can reach"),
                (spec % "0.0.0.0", "'0.0.0.0' is no machine's address"),
            )
        ),
        (
            POLICY + "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}",
            "a.yaml:4: spec.rules[0].from[0].source.ipBlocks[0]: write an address or a block",
        ),
        (
            POLICY + "spec: {rules: [{from: []}]}",
            "a.yaml:4: spec.rules[0].from: empty: write at least one",
        ),
        (
            POLICY + "spec: {rules: [{from: [{source: {}}]}]}",
            "a.yaml:4: spec.rules[0].from[0].source: empty: write at least one field",
        ),
        (
            POLICY.replace("{name: a}", "{name: a, annotations: {istio.io/dry-run: 'true'}}"),
            "a.yaml:3: metadata.annotations.istio.io/dry-run: dry runs of policies",
        ),
        (
            POLICY.replace("{name: a}", "{name: a, annotations: {sluice.dev/x: 'true'}}"),
            "a.yaml:3: metadata.annotations.sluice.dev/x: unknown annotation",
        ),
        (
            POLICY.replace("AuthorizationPolicy", "PeerAuthentication")
            + "spec: {portLevelMtls: {80: {mode: DISABLE}}}",
            "a.yaml:4: spec: portLevelMtls holds only with a selector",
        ),
        (
            POLICY.replace("AuthorizationPolicy", "PeerAuthentication")
            + "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: LAX}}}",
            "a.yaml:4: spec.portLevelMtls.80.mode: 'LAX' is not known here: write one of UNSET",
        ),
        (
            ENTRY + "spec: {hosts: [a], ports: [{number: 1, name: a}]}",
            "a.yaml:4: spec.resolution: NONE: connections go to mesh addresses only",
        ),
        (
            ENTRY + "spec: {hosts: [a], ports: [{number: 1, name: a}], resolution: STATIC,\n"
            "  endpoints: [{address: db.example}]}",
            "a.yaml:5: spec.endpoints[0].address: 'db.example' is no address: write an IPv4",
        ),
        (
            ENTRY + "spec: {hosts: [a], ports: [{number: 0, name: a}], resolution: DNS}",
            "a.yaml:4: spec.ports[0].number: write a port",
        ),
        (
            "apiVersion: sluice.dev/v1\nkind: Service\nmetadata: {name: a.b}\n"
            "spec: {ports: [{port: 1}]}",
            "a.yaml:3: metadata.name: it becomes part of a mesh name",
        ),
        (
            "apiVersion: sluice.dev/v1\nkind: Host\nmetadata: {name: a}\n"
            "spec: {addresses: [10.0.0.1], mac: 'AA:00:00:00:00:01'}",
            "a.yaml:4: spec.mac: malformed",
        ),
    ],
)  # fmt: skip
def test_refused_with_file_line_and_path(text: str, expected: str) -> None:
    assert refusals(text)[0].startswith(expected)


def test_all_errors_are_told_together() -> None:
    lines = refusals(
        HEAD + "spec: {hots: b}", "---\n" + POLICY + "spec: {action: MAYBE}\n---\n[]\n---\na: {"
    )
    assert [line.split(": ")[0] for line in lines] == [
        "a.yaml:4", "a.yaml:4", "b.yaml:5", "b.yaml:7", "b.yaml:10",
    ]  # fmt: skip


def test_duplicate_documents_name_both_places() -> None:
    (line,) = refusals(HEAD + "spec: {host: a}", HEAD + "spec: {host: b}")
    assert line == (
        "b.yaml:3: metadata.name: duplicate: DestinationRule default/a is in a.yaml:1 too; keep one"
    )


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\n"
        + "".join(f"e{n}: &e{n} [*{f'e{n - 1}' if n else 'd'}, *{f'e{n - 1}' if n else 'd'}]\n"
                  for n in range(20)),
        "[" * 100_000,
        "{a: " * 50,
        "a: &a [*a]",
        "a: &a {b: *a}",
        "".join(f"a{n}: &a{n} [*a{n - 1}]\n" if n else "a0: &a0 [x]\n" for n in range(40)),
        "x" * (BYTES_MAX + 1),
        "\x00",
        "a: \ud800",
        "%YAML 9.9\n---\n",
        "a: *missing",
        "'': 1",
        "<<: {a: 1}\n<<: {b: 2}",
    ],
    ids=range(13),
)  # fmt: skip
def test_hostile_yaml_is_refused(text: str) -> None:
    assert refusals(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("010", "010"), ("0x10", "0x10"), ("1_000", "1_000"), ("true", True), ("12", 12),
        ("1.5", 1.5), ("~", None), ("'12'", "12"), ("!!str 12", "12"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    (root,) = documents(f"a: {text}\n")
    assert root.plain() == {"a": value}


def test_aliases_are_expanded() -> None:
    (root,) = documents("a: &x {b: 1}\nc: *x\n")
    assert root.plain() == {"a": {"b": 1}, "c": {"b": 1}}
    with pytest.raises(TreeError):
        list(documents("c: *x\n"))


def test_known_documents_are_not_read_again_but_stand_where_they_are() -> None:
    known = Known()
    second = POLICY + "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.1]}}]}]}\n"
    first = load([Source("a.yaml", HEAD + "spec: {host: a}\n---\n" + second)], known)
    again = load([Source("b.yaml", HEAD + "spec:\n  host: b\n---\n" + second)], known)
    policy, policy_again = first.documents[0], again.documents[0]
    assert policy_again.spec is policy.spec
    assert (policy.file, policy.line_at(("spec",))) == ("a.yaml", 9)
    assert (policy_again.file, policy_again.line_at(("spec",))) == ("b.yaml", 10)
    with pytest.raises(
        DocumentErrors, match=r"b\.yaml:3: metadata\.name: duplicate: .* b\.yaml:1 "
    ):
        load([Source("b.yaml", second), Source("b.yaml", second)], known)


def test_what_is_wrong_is_read_and_said_each_time() -> None:
    known = Known()
    for _ in range(2):
        with pytest.raises(DocumentErrors, match=r"a\.yaml:9: spec\.x: unknown field"):
            load(
                [Source("a.yaml", HEAD + "spec: {host: a}\n---\n" + POLICY + "spec: {x: 1}")], known
            )


def test_no_more_is_known_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = [HEAD.replace("name: a", f"name: a{n}") + "spec: {host: a}\n" for n in range(3)]
    monkeypatch.setattr("appliance.config.load.KNOWN_CHARS_MAX", len(text[0]) * 2)
    known = Known()
    for each in (text[0], text[1], text[0], text[2]):
        load([Source("a.yaml", each)], known)
    assert [known.get(each) is not None for each in text] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n---\nb: 2\n--- \nc: 3\n---", [(0, "a: 1\n"), (1, "---\nb: 2\n"),
                                              (3, "--- \nc: 3\n"), (5, "---")]),
        ("--- {a: 1}\n---b: 2\n", [(0, ""), (0, "--- {a: 1}\n---b: 2\n")]),
        ("a: |\n  x\n  ---\n", [(0, "a: |\n  x\n  ---\n")]),
        ("%YAML 1.2\n---\na: 1\n", [(0, "%YAML 1.2\n---\na: 1\n")]),
        ("a: 1\n...\n---\nb: 2\n", [(0, "a: 1\n...\n---\nb: 2\n")]),
        ("a: 1\r\n---\r\nb: 2\r\n", [(0, "a: 1\r\n---\r\nb: 2\r\n")]),
    ],
)  # fmt: skip
def test_a_text_is_cut_only_between_documents(text: str, found: list[tuple[int, str]]) -> None:
    assert [(part.above, part.text) for part in parts(text)] == found


def test_lines_and_limits_count_over_all_parts() -> None:
    (line,) = refusals(HEAD + "spec: {host: a}\n---\n" + HEAD + "spec:\n  host: b\n  host: c\n")
    assert line == "a.yaml:11: duplicate key 'host': it is on line 10 too; keep one"
    (line,) = refusals("---\n" * (DOCUMENTS_MAX + 2))
    assert f"more than {DOCUMENTS_MAX} documents: split it" in line
    item = f"---\n- [{'1,' * 30_000}]\n"
    assert any("values or" in line for line in refusals(item * 18))


def test_merge_without_changes_and_diff() -> None:
    base = loaded(HEAD + "spec: {host: a}\n---\n" + POLICY)
    given = loaded(HEAD + "spec: {host: b}")
    after = merge(base, given)
    assert [change.what for change in changes(base, after)] == ["unchanged", "changed"]
    assert "-  host: a\n+  host: b\n" in diff(base, after)
    assert diff(base, base) == ""
    gone = without(after, [("DestinationRule", "default", "a")])
    assert [change.what for change in changes(after, gone)] == ["unchanged", "deleted"]
    assert "+++ /dev/null" in diff(after, gone)
    assert [change.what for change in changes(Model(), base)] == ["created", "created"]


def test_own_kinds() -> None:
    model = loaded(
        "apiVersion: sluice.dev/v1\nkind: Service\nmetadata: {name: db}\n"
        "spec: {ports: [{port: 5432}], health: {kind: tcp, interval: 2s}, export: false}\n---\n"
        "apiVersion: sluice.dev/v1\nkind: Host\nmetadata: {name: db1, labels: {app: db}}\n"
        "spec: {addresses: [198.18.0.5, 2001:db8::5], mac: '02:00:00:00:00:01'}\n"
    )
    (service,), (host,) = model.of(own.Service), model.of(own.Host)
    assert (service.spec.ports[0].port, service.spec.export) == (5432, False)
    assert (host.labels, len(host.spec.addresses)) == ({"app": "db"}, 2)
    assert load([Source("again", dump(model))]) == model


@pytest.mark.parametrize(
    "text", ["0E0", "1e3", "12", "no", "true", "~", "", "1:30", "#a", "a: b", " "]
)
def test_text_stays_text(text: str) -> None:
    quoted = text.replace("'", "''")
    head = HEAD.replace("{name: a}", f"{{name: a, annotations: {{note: '{quoted}'}}}}")
    model = loaded(head + "spec: {host: a}")
    (doc,) = load([Source("again", dump(model))]).documents
    assert doc.annotations == {"note": text}


@pytest.mark.parametrize("health", ["interval: 0s", "interval: 99ms", "timeout: 0s"])
def test_a_health_check_may_not_be_a_flood(health: str) -> None:
    with pytest.raises(DocumentErrors, match="must be at least"):
        loaded(
            "apiVersion: sluice.dev/v1\nkind: Service\nmetadata: {name: db}\n"
            f"spec: {{ports: [{{port: 5432}}], health: {{{health}}}}}\n"
        )


def test_the_longest_names_fit_the_data_plane() -> None:
    for kind in KINDS:
        longest = Document("", kind[1], "n" * LABEL_MAX, "a" * NAME_MAX, Spec())
        assert len(str(longest)) <= lib.DP_NAME_MAX, kind
    (doc,) = loaded(HEAD.replace("name: a", f"name: {'a' * NAME_MAX}, namespace: {'n' * LABEL_MAX}")
                    + "spec: {host: a}").of(istio.DestinationRule)  # fmt: skip
    assert len(doc.name) == NAME_MAX
