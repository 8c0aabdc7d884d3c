"""Certificates with a single defect each, to see that the checks of `certificates.py` find it.

Prints `{"event": "defect", "what": …, "expected": row, "found": [rows that failed]}` for each, then
`{"event": "done"}`.
"""

import datetime
import json

import certificates
from certificates import check_authority, check_leaf
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
WEB, TRUST_DOMAIN = "spiffe://example.org/web", "spiffe://example.org"
BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
ROOT_KEY, LEAF_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
BITS = (*certificates.USAGES, "encipher_only", "decipher_only")


def name(*common):
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, text) for text in common]
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "example.org"), *parts])


def make(key, *, subject, uris, ca, usage, purposes=None, issuer=name("root"), signer=ROOT_KEY, critical_usage=True,
         constraints=True, critical_constraints=True, critical_names=False, hours=1, own_id=True, above_id=True,
         name_constraints=False):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(hours=hours))
    )
    extensions = [
        (uris and x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical_names),
        (constraints and x509.BasicConstraints(ca, None), critical_constraints),
        (usage and x509.KeyUsage(**{bit: bit in usage for bit in BITS}), critical_usage),
        (purposes and x509.ExtendedKeyUsage(purposes), False),
        (own_id and x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (above_id and x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (name_constraints and x509.NameConstraints([x509.DNSName("a.example")], None), False),
    ]
    for extension, critical in extensions:
        if extension:
            builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def authority(**defect):
    good = dict(subject=name("root"), uris=[TRUST_DOMAIN], ca=True, usage=["key_cert_sign", "crl_sign"], hours=2)
    return make(ROOT_KEY, **{**good, **defect})


def leaf(**defect):
    return make(
        LEAF_KEY, **{**dict(subject=name(), uris=[WEB], ca=False, usage=["digital_signature"], purposes=BOTH), **defect}
    )


LEAVES = [
    (None, dict()),
    ("XSVID-01", dict(uris=[WEB, "https://example.org/web"])),
    ("XSVID-01", dict(uris=["spiffe://example.org/other"])),
    ("XSVID-07", dict(subject=x509.Name([]))),
    ("IOP-30", dict(subject=x509.Name([]), critical_names=True)),
    ("IOP-06", dict(constraints=False)),
    ("XSVID-16", dict(ca=True)),
    ("XSVID-18", dict(name_constraints=True)),
    ("XSVID-20", dict(usage=None)),
    ("XSVID-21", dict(critical_usage=False)),
    ("XSVID-24", dict(usage=["key_agreement"])),
    ("XSVID-25", dict(usage=["digital_signature", "key_encipherment"])),
    ("XSVID-26", dict(usage=["digital_signature", "key_cert_sign"])),
    ("XSVID-26", dict(usage=["digital_signature", "crl_sign"])),
    ("XSVID-27", dict(purposes=None)),
    ("XSVID-29", dict(purposes=BOTH[:1])),
    ("XSVID-29", dict(purposes=BOTH[1:])),
    ("XINH-02", dict(hours=24 * 365 * 30)),
    ("XINH-04", dict(issuer=name("another"))),
    ("XINH-05", dict(above_id=False)),
    ("XINH-07", dict(hours=3)),
    ("SVID-01", dict(signer=LEAF_KEY)),
]

AUTHORITIES = [
    (None, dict()),
    ("XSVID-08", dict(usage=["crl_sign"])),
    ("XSVID-15", dict(ca=False)),
    ("XINH-03", dict(critical_constraints=False)),
    ("XSVID-20", dict(usage=None)),
    ("XSVID-21", dict(critical_usage=False)),
    ("XSVID-22", dict(usage=["crl_sign"])),
    ("XSVID-37", dict(usage=["key_cert_sign", "digital_signature"])),
    ("XSVID-38", dict(usage=["key_cert_sign", "crl_sign", "key_agreement"])),
    ("XSVID-09", dict(uris=[])),
    ("SVID-03", dict(uris=[])),
    ("XSVID-10", dict(uris=["spiffe://example.org/ca"])),
    ("SVID-05", dict(uris=["spiffe://example.org/ca"])),
    ("XSVID-11", dict(uris=["spiffe://elsewhere.example"])),
    ("SVID-04", dict(uris=["spiffe://elsewhere.example"])),
    ("SVID-06", dict(signer=LEAF_KEY)),
    ("XSVID-30", dict(purposes=BOTH)),
    ("XSVID-17", dict(name_constraints=True)),
    ("XINH-05", dict(own_id=False)),
]


def main():
    root, failed = authority(), []
    certificates.say = lambda **event: None if event["ok"] else failed.append(event["row"])

    def tell(kind, expected, defect, look):
        failed.clear()
        look()
        what = f"{kind} {sorted(defect)}"
        print(json.dumps({"event": "defect", "what": what, "expected": expected, "found": failed}), flush=True)

    for expected, defect in LEAVES:
        tell("leaf", expected, defect, lambda defect=defect: check_leaf(leaf(**defect), WEB, [root]))
    for expected, defect in AUTHORITIES:
        tell("authority", expected, defect, lambda defect=defect: check_authority(authority(**defect)))
    print(json.dumps({"event": "done"}), flush=True)


main()
