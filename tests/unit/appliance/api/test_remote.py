"""appliance.api.remote: the folder that a certificate is put into, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.api.remote import BUNDLE, CHAIN, KEY, SERVER, Remote, make_folder, write_folder
from appliance.errors import Conflict, InvalidInput
from tests.unit.appliance.api.pki import Pki

A = Pki("a.example")
EVA = "spiffe://a.example/sluice/admin/eva"


def fill(folder: Path) -> str:
    leaf = A.leaf("/sluice/admin/eva")
    write_folder(
        folder,
        {KEY: leaf.key_pem, CHAIN: leaf.chain_pem, BUNDLE: A.bundle, SERVER: "edge.sluice\n"},
    )
    return leaf.chain_pem


def test_a_certificate_is_made_anew_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "eva"
    assert make_folder(folder, EVA)
    first = fill(folder)
    assert not make_folder(folder, EVA)
    second = fill(folder)
    assert first != second == (folder / CHAIN).read_text()
    assert sorted(each.name for each in folder.iterdir()) == sorted((KEY, CHAIN, BUNDLE, SERVER))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}


def test_a_folder_of_another_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "eva"
    make_folder(folder, EVA)
    fill(folder)
    with pytest.raises(Conflict, match=r"holds the certificate of .*/admin/eva"):
        make_folder(folder, EVA.replace("admin", "viewer"))
    for name in (".ssh", "id_rsa"):
        (folder / name).touch()
        with pytest.raises(Conflict, match="does not exist yet"):
            make_folder(folder, EVA)
        (folder / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(Conflict):
        make_folder(tmp_path / "file", EVA)


def test_a_folder_with_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / CHAIN).write_text("garbage")
    with pytest.raises(Conflict, match="cannot be read"):
        make_folder(tmp_path, EVA)


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert make_folder(tmp_path, EVA)
    with pytest.raises(InvalidInput, match="sluice ca admin"):
        Remote("127.0.0.1:1", tmp_path).channel(())
