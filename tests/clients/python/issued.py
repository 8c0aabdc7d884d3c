"""What a server has issued and published, read by `cryptography`, OpenSSL and PyJWT, which share no code with us.

Prints the checks of `certificates.py`, then `{"event": "done"}`.

Argument: a file of JSON. `leaves`: `{"id": …, "chain": file}` each, concatenated DER, leaf first; `bundle`: file with
the authorities as PEM; `spiffe_bundle`: file with the same as SPIFFE bundle; `stranger`: authorities of another server with
the same trust domain, as PEM; `port`: where the server speaks TLS.
"""

import base64
import json
import socket
import sys

from certificates import (
    certificates, check, check_authority, check_leaf, extension, is_signed_by, say, uri_names, usages, verifies,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID
from jwt.algorithms import ECAlgorithm
from OpenSSL import SSL


def check_all(leaves, roots, strangers):
    serials = [certificate.serial_number for chain, _ in leaves for certificate in chain[:1]]
    check("XINH-01 unique", len(set(serials)) == len(serials) > 2, serials)
    for (leaf, *intermediates), expected in leaves:
        above = [root for root in roots if is_signed_by((intermediates or [leaf])[-1], root)]
        check_leaf(leaf, expected, [*intermediates, *above])
        trouble = verifies(roots, intermediates, leaf)
        check("XSVID-31, WAPI-21", trouble is None, trouble or "OpenSSL verifies it against its own bundle")
        trouble = verifies(strangers, intermediates, leaf)
        check("SPID-13, SVID-01", trouble is not None, trouble or "verified against a stranger's bundle")
    longest = max((expected for _, expected in leaves), key=len)
    check("SPID-20", len(longest) == 2048, len(longest))
    folded = [expected.lower() for _, expected in leaves]
    check("SPID-24", len(set(folded)) < len(folded), "two IDs that differ by case alone")
    for stranger in strangers:
        check("same name, other key", stranger not in roots and uri_names(stranger) == ["spiffe://example.org"])


def check_bundle(document, roots):
    """The SPIFFE bundle: a JWK for each authority."""
    keys = json.loads(document)["keys"]
    check("XSVID-39", len(keys) == len(roots) and all(key["kty"] == "EC" for key in keys), keys)
    for key, root in zip(keys, roots):
        check("XSVID-40", key["use"] == "x509-svid", key)
        check("XSVID-41", "kid" not in key, key)
        check("XSVID-43", len(key["x5c"]) == 1, key)
        # Strictly: no line ends, nothing of base64url.
        der = base64.b64decode(key["x5c"][0], validate=True)
        check("XSVID-42", der == root.public_bytes(Encoding.DER), key["x5c"])
        certificate = x509.load_der_x509_certificate(der)
        check("XSVID-44", certificate.issuer == certificate.subject and is_signed_by(certificate, certificate))
        parameters = ECAlgorithm.from_jwk(json.dumps(key)).public_numbers()
        check("XSVID-39, IOP-28", parameters == certificate.public_key().public_numbers(), key)


def check_handshake(port, roots):
    """What the server presents to an agent: an SVID, and not the certificate that signs them."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    context.set_alpn_protos([b"h2"])
    with socket.create_connection(("127.0.0.1", port)) as tcp:
        tls = SSL.Connection(context, tcp)
        tls.set_connect_state()
        tls.do_handshake()
        leaf, *above = [certificate.to_cryptography() for certificate in tls.get_peer_cert_chain()]
        check("its own ID", uri_names(leaf) == ["spiffe://example.org/spire/server"], uri_names(leaf))
        is_leaf = not extension(leaf, ExtensionOID.BASIC_CONSTRAINTS).value.ca and "key_cert_sign" not in usages(leaf)
        check("XSVID-13", is_leaf and leaf not in roots, usages(leaf))
        check("IOP-08 server", not any(root in above for root in roots), len(above))
        trouble = verifies(roots, above, leaf)
        check("XSVID-32 server", trouble is None, trouble)
        check_leaf(leaf, "spiffe://example.org/spire/server", [root for root in roots if is_signed_by(leaf, root)])
        tls.shutdown()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        given = json.load(file)

    def read(name):
        with open(name, "rb") as file:
            return file.read()

    roots = x509.load_pem_x509_certificates(read(given["bundle"]))
    strangers = x509.load_pem_x509_certificates(read(given["stranger"]))
    leaves = [(certificates(read(leaf["chain"])), leaf["id"]) for leaf in given["leaves"]]
    for root in roots:
        check_authority(root)
    subjects = {root.subject.rfc4514_string() for root in [*roots, *strangers]}
    check("XINH-04 distinct", len(subjects) == len(roots) + len(strangers), subjects)
    check_all(leaves, roots, strangers)
    check_bundle(read(given["spiffe_bundle"]), roots)
    check_handshake(given["port"], roots)
    say(event="done")


main()
