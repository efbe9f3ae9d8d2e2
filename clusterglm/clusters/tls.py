"""The keys of one cluster: a certificate authority that signs once and is thrown away, and a pair for all roles.

Whoever may read ``key.pem`` may run code on the cluster, so the files are their owner's alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from clusterglm.clusters.files import write_whole
from clusterglm.clusters.registry import private_folder
from clusterglm.errors import ClusterError

if TYPE_CHECKING:
    from distributed.security import Security

FILES = CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"
_LIFE = timedelta(days=397)
_SKEW = timedelta(days=1)  # a node's clock may be behind


def make(folder: Path, secret: bytes | None = None) -> Path:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem`` (0600) into a folder (0700), and return it; keys there are kept.

    Whoever knows the ``secret`` makes the same authority and the same key again.

    Raises
    ------
    ClusterError
        The folder cannot be written, or is not its owner's alone.
    """
    private_folder(folder)
    if all((folder / name).exists() for name in FILES):
        return folder
    return keep(folder, dict(zip(FILES, _pair(secret), strict=True)))


def keep(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files of keys (0600) into a folder (0700), and return it; raises what ``make`` raises."""
    private_folder(folder)
    for name, content in files.items():
        try:
            write_whole(folder / name, content)
        except OSError as error:
            raise ClusterError("keys", folder, f"{error.strerror}: not writable") from error
    return folder


def security(folder: Path) -> Security:
    """Return what Dask needs to speak to the cluster whose keys these are, and to nobody else.

    Raises
    ------
    ClusterError
        The keys are not there.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ClusterError("keys", folder / missing[0], "no such file: the cluster's keys were removed")
    from distributed.security import Security

    roles = ("client", "scheduler", "worker")
    pairs = {f"tls_{role}_cert": str(folder / CERT) for role in roles}
    pairs |= {f"tls_{role}_key": str(folder / KEY) for role in roles}
    return Security(require_encryption=True, tls_ca_file=str(folder / CA), **pairs)


def variables(folder: PurePath) -> dict[str, str]:
    """Return the environment in which ``dask scheduler`` and ``dask worker`` speak to holders of these keys alone.

    Not their options ``--tls-cert`` and so on, with which a scheduler refuses ``--interface``.
    """
    names = {"REQUIRE_ENCRYPTION": "True", "TLS__CA_FILE": str(folder / CA)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        names |= {f"TLS__{role}__CERT": str(folder / CERT), f"TLS__{role}__KEY": str(folder / KEY)}
    return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in names.items()}


def _pair(secret: bytes | None) -> tuple[bytes, bytes, bytes]:
    """Return an authority's certificate, and a certificate with its key that the authority has signed.

    Both keys are new ones, or those that ``secret`` makes again.

    Dask compares no host names: to be signed by this authority is all that counts.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(of: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"clusterglm {of}")])

    def certificate(of: str, public: ec.EllipticCurvePublicKey, is_ca: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        usage["key_cert_sign" if is_ca else "digital_signature"] = True
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name("authority"), name(of), public, x509.random_serial_number())
        builder = builder.not_valid_before(now - _SKEW).not_valid_after(now + _LIFE)
        # Python 3.13 and later refuse certificates without these extensions.
        for extension, critical in (
            (x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), True),
            (x509.KeyUsage(**usage), True),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority, hashes.SHA256())

    def new(of: bytes) -> ec.EllipticCurvePrivateKey:
        curve = ec.SECP256R1()
        return ec.generate_private_key(curve) if secret is None else ec.derive_private_key(_scalar(secret + of), curve)

    authority, key = new(b" authority"), new(b" cluster")
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ca = certificate("authority", authority.public_key(), is_ca=True)
    return ca.public_bytes(pem), certificate("cluster", key.public_key(), is_ca=False).public_bytes(pem), private


def _scalar(secret: bytes) -> int:
    """Return a private key of the curve P-256 from a secret: 512 bits of it modulo the order leave no bias."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    return int.from_bytes(hashlib.sha512(secret).digest()) % (order - 1) + 1
