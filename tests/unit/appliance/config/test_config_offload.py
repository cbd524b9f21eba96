"""OffloadProfile: what loads, what is refused and where, and what the data plane gets of it."""

from __future__ import annotations

import itertools

import pytest

from appliance.compile import Mesh
from appliance.compile.offload import offload
from appliance.config.load import Source, load
from appliance.config.model import dump
from appliance.config.notes import DocumentErrors
from appliance.config.verify import verify
from dataplane.snapshot import ALL_CIPHERS, Ciphers, Offload, Prefer, Tls12
from tests.unit.appliance.sites import REGISTRY, SITE, allocated, compiled, model

HEAD = "apiVersion: sluice.dev/v1\nkind: OffloadProfile\nmetadata: {name: default}\nspec:\n"
NIC = '{prefer: nic, tls: {minVersion: "1.2"}'


def profile(spec: str) -> str:
    return f"{HEAD}  {spec}\n"


def told(text: str) -> list[str]:
    documents = model(text)
    return [
        f"{note.level}: {note}"
        for note in verify(Mesh.of(documents, allocated(documents, REGISTRY), SITE))
    ]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{prefer: fast}", "spec.prefer: 'fast' is not known here: write one of auto, user, ktls"),
        ("{minimumBytes: -1}", "spec.minimumBytes: "),
        ("{minimumBytes: 1125899906842625}", "spec.minimumBytes: "),
        ("{minimumBytes: 1.5}", "spec.minimumBytes: not a whole number"),
        ("{minimumBytes: true}", "spec.minimumBytes: not a whole number"),
        ("{tls: {minVersion: 1.1}}", "spec.tls.minVersion: 1.1: too weak"),
        ("{tls: {minVersion: TLSV1_2}}", "spec.tls.minVersion: 'TLSV1_2' is not known here"),
        ("{tls: {minVersion: [1.2]}}", "spec.tls.minVersion: "),
        ("{tls: {maxVersion: 1.3}}", "spec.tls.maxVersion: unknown field: did you mean minVersion"),
        ("{ciphers: []}", "spec.ciphers: empty"),
        ("{ciphers: [RC4]}", "spec.ciphers[0]: 'RC4' is not known here"),
        ("{ciphers: AES_128_GCM}", "spec.ciphers: not a list"),
        ("{selector: {}}", "spec.selector: unknown field"),
    ],
)
def test_what_is_malformed_does_not_load(spec: str, says: str) -> None:
    with pytest.raises(DocumentErrors) as caught:
        load([Source("p.yaml", profile(spec))])
    (note,) = caught.value.notes
    assert str(note).startswith(f"p.yaml:5: {says}")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{prefer: nic}", "0.yaml:5: spec.prefer: no NIC seals TLS 1.3"),
        ("{prefer: nic, tls: {minVersion: 1.3}}", "0.yaml:5: spec.tls.minVersion: no NIC seals"),
        ("{prefer: auto, minimumBytes: 9}", "0.yaml:5: spec.minimumBytes: with prefer: auto no"),
        ("{prefer: user, minimumBytes: 0}", "0.yaml:5: spec.minimumBytes: with prefer: user no"),
        ("{prefer: openssl, minimumBytes: 9}", "0.yaml:5: spec.minimumBytes: with prefer: openssl"),
        ("{ciphers: [AES_128_GCM, AES_128_GCM]}", "0.yaml:5: spec.ciphers[1]: AES_128_GCM is ther"),
        (f"{NIC}, ciphers: [CHACHA20_POLY1305]}}", "0.yaml:5: spec.ciphers: TLS 1.2 is spoken"),
    ],
)
def test_what_contradicts_itself_is_refused(spec: str, says: str) -> None:
    (line,) = told(profile(spec))
    assert line.startswith(f"refused: {says}")


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ("{name: other}", "metadata.name: a site has one profile: name it default"),
        ("{name: default, namespace: shop}", "metadata.namespace: it holds for the whole site"),
    ],
)
def test_a_site_has_one_profile(metadata: str, says: str) -> None:
    text = profile("{prefer: ktls}").replace("{name: default}", metadata)
    (line,) = told(text)
    assert line.startswith(f"refused: 0.yaml:3: {says}")
    assert compiled(text).offload is None


@pytest.mark.parametrize(
    ("spec", "which"),
    [(f"{NIC}}}", "to peers that allow it"),
     ("{prefer: ktls, tls: {minVersion: 1.2}}", "from peers that prefer it")],
)  # fmt: skip
def test_what_tls12_shows_is_said(spec: str, which: str) -> None:
    (line,) = told(profile(spec))
    assert line.startswith(f"approximated: 0.yaml:5: spec.tls.minVersion: mesh links {which}")
    assert "shows both certificates on the wire" in line


def test_tls13_alone_needs_no_word() -> None:
    for prefer in ("auto", "user", "ktls", "openssl"):
        assert told(profile(f"{{prefer: {prefer}}}")) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", Offload()),
        ("{prefer: ktls, minimumBytes: 65536}", Offload(Prefer.KTLS, bytes_min=65536)),
        ("{prefer: openssl}", Offload(Prefer.OPENSSL)),
        (f"{NIC}, ciphers: [AES_128_GCM]}}",
         Offload(Prefer.NIC, Tls12.PREFER, Ciphers.AES_128_GCM)),
        ("{prefer: user, tls: {minVersion: 1.2}}", Offload(Prefer.USER, Tls12.ALLOW)),
        ("{ciphers: [CHACHA20_POLY1305]}", Offload(ciphers=Ciphers.CHACHA20)),
    ],
)  # fmt: skip
def test_what_the_data_plane_gets(spec: str, expected: Offload) -> None:
    assert compiled(profile(spec)).offload == expected


def test_without_a_document_nothing_is_said() -> None:
    assert compiled().offload is None


def test_nothing_that_loads_is_weaker_than_its_minimum() -> None:
    ciphers = ("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305")
    lists = [None, *(c for n in (1, 2, 3) for c in itertools.combinations(ciphers, n))]
    for prefer, version, listed in itertools.product(
        ("auto", "user", "ktls", "nic", "openssl"), (None, "1.2", "1.3"), lists
    ):
        spec = f"{{prefer: {prefer}"
        spec += f", tls: {{minVersion: {version}}}" if version else ""
        spec += f", ciphers: [{', '.join(listed)}]}}" if listed else "}"
        found = offload(model(profile(spec)))
        assert found is not None
        assert found.tls12 is Tls12.NEVER or version == "1.2"
        assert found.tls12 is not Tls12.PREFER or prefer == "nic"
        assert found.ciphers.bit_count() == (len(listed) if listed else 3)
        assert found.ciphers in ALL_CIPHERS


def test_it_comes_back_as_it_was_written() -> None:
    documents = model(profile(f"{NIC}, minimumBytes: 1, ciphers: [AES_256_GCM]}}"))
    assert load([Source("again", dump(documents))]) == documents
