"""Keys that only their owner may read, and that open one cluster."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from clusterglm.clusters import tls
from clusterglm.errors import ClusterError


def test_keys_are_their_owners_alone_and_made_once(tmp_path: Path) -> None:
    folder = tls.make(tmp_path / "tls")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(tls.FILES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    before = (folder / "key.pem").read_bytes()
    tls.make(folder)
    assert (folder / "key.pem").read_bytes() == before


def test_a_link_is_no_folder_for_keys(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tls").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="a link or a file"):
        tls.make(tmp_path / "tls")


def shake(server: Path, client: Path) -> None:
    """Let two ends with these keys shake hands in memory, under the strictest rules that any Python has."""
    ends = []
    for folder, purpose in ((server, ssl.Purpose.CLIENT_AUTH), (client, ssl.Purpose.SERVER_AUTH)):
        context = tls.security(folder)._get_tls_context(
            {name: str(folder / f"{file}.pem") for name, file in (("ca_file", "ca"), ("cert", "cert"), ("key", "key"))},
            purpose,
        )
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        assert context.verify_mode is ssl.CERT_REQUIRED
        ends.append((context, ssl.MemoryBIO(), ssl.MemoryBIO()))
    (there, to_server, to_client), (here, *_) = ends
    peers = [
        there.wrap_bio(to_server, to_client, server_side=True),
        here.wrap_bio(to_client, to_server, server_side=False),
    ]
    for _ in range(4):
        for peer in reversed(peers):
            try:
                peer.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_the_keys_of_one_cluster_open_no_other(tmp_path: Path) -> None:
    one, two = tls.make(tmp_path / "one"), tls.make(tmp_path / "two")
    shake(one, one)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(one, two)


def test_encryption_is_required(tmp_path: Path) -> None:
    found = tls.security(tls.make(tmp_path / "tls"))
    assert found.require_encryption
    assert found.get_connection_args("client")["require_encryption"]


def test_keys_that_are_gone_are_named(tmp_path: Path) -> None:
    folder = tls.make(tmp_path / "tls")
    (folder / "cert.pem").unlink()
    with pytest.raises(ClusterError, match=r"cert.pem\): no such file"):
        tls.security(folder)
