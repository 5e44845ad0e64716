"""Certificates for clusters and servers that tests start."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def certificate(
    folder: Path, name: str, issuer: tuple[Any, x509.Certificate] | None = None, addresses: Iterable[str] = ()
) -> tuple[Any, Any]:
    """Write a key and a certificate for this machine's addresses, or for others, signed by ``issuer`` or by itself. Returns both."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.issuer_name(issuer[1].subject if issuer else subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    own = {"127.0.0.1", *(addresses or own_addresses())}
    names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(own))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(issuer[0] if issuer else key, hashes.SHA256())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*plain))
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, made


def own_addresses() -> set[str]:
    """Return this machine's addresses, that which Ray finds among them."""
    import ray

    return {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(socket.gethostname(), None)} | {
        ray.util.get_node_ip_address()
    }


def tls(folder: Path, authority: str = "authority") -> dict[str, str]:
    """Return Ray's settings for the certificate ``machine`` in a folder, and that of who has signed those of others."""
    files = {"SERVER_CERT": "machine.crt", "SERVER_KEY": "machine.key", "CA_CERT": f"{authority}.crt"}
    return {"RAY_USE_TLS": "1", **{f"RAY_TLS_{name}": str(folder / file) for name, file in files.items()}}
