"""The rules of X.509-SVIDs, checked on certificates by `cryptography` and OpenSSL: decoders that share no code with us.

`check` prints one line of JSON for each rule: `{"event": "check", "row": …, "ok": …, "seen": …}`. The rows are those of
`docs/conformance.md`.
"""

import datetime
import json

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from OpenSSL import crypto

USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign",
)


def say(**event):
    print(json.dumps(event), flush=True)


def check(row, ok, seen=""):
    say(event="check", row=row, ok=bool(ok), seen=str(seen))


def certificates(der):
    """All certificates of concatenated DER, to the last octet (WAX-07)."""
    found = []
    while der:
        assert der[0] == 0x30 and der[1] == 0x82, "not a certificate"
        size = 4 + int.from_bytes(der[2:4], "big")
        found.append(x509.load_der_x509_certificate(der[:size]))
        der = der[size:]
    return found


def extension(certificate, oid):
    try:
        return certificate.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return None


def uri_names(certificate):
    names = extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else []


def usages(certificate):
    """The bits of key usage that are set; none if there is no such extension."""
    found = extension(certificate, ExtensionOID.KEY_USAGE)
    return {name for name in USAGES if found and getattr(found.value, name)}


def is_signed_by(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature):
        return False
    return True


def verifies(roots, intermediates, leaf):
    """What OpenSSL has against the chain, with the rules of RFC 5280 to the letter; `None` if nothing."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    chain = [crypto.X509.from_cryptography(certificate) for certificate in intermediates]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain).verify_certificate()
    except crypto.X509StoreContextError as error:
        return error
    return None


def check_dates(certificate):
    """UTCTime with seconds and Z up to 2049, as it stands in the DER."""
    wanted = b""
    for instant in (certificate.not_valid_before_utc, certificate.not_valid_after_utc):
        wanted += b"\x17\x0d" + instant.strftime("%y%m%d%H%M%SZ").encode()
    before_2050 = certificate.not_valid_after_utc.year < 2050
    check("XINH-02", before_2050 and wanted in certificate.tbs_certificate_bytes, wanted)


def check_leaf(leaf, expected, chain):
    """One leaf that has to be `expected`, with the certificates above it: intermediates, then the root."""
    uris = uri_names(leaf)
    check("XSVID-01", uris == [expected], uris)
    check("XSVID-05", expected.startswith("spiffe://example.org/") and len(expected) > 21, expected)
    names = extension(leaf, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    check("XSVID-07", len(list(leaf.subject)) > 0 or names.critical, leaf.subject)
    organizations = leaf.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    check("IOP-30", [name.value for name in organizations] == ["example.org"], leaf.subject)
    constraints = extension(leaf, ExtensionOID.BASIC_CONSTRAINTS)
    check("IOP-06", constraints is not None, constraints)
    check("XSVID-16", constraints is not None and not constraints.value.ca, constraints)
    check("XSVID-18", extension(leaf, ExtensionOID.NAME_CONSTRAINTS) is None)
    usage = extension(leaf, ExtensionOID.KEY_USAGE)
    check("XSVID-20, XSVID-21", usage is not None and usage.critical, usage)
    check("XSVID-24", "digital_signature" in usages(leaf), usage)
    check("XSVID-26", not usages(leaf) & {"key_cert_sign", "crl_sign"}, usage)
    check("XSVID-25", usages(leaf) == {"digital_signature"}, usage)
    purposes = extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    check("XSVID-27, XSVID-29", purposes is not None and wanted <= set(purposes.value), purposes)
    # As many octets as DER needs for it, sign included.
    check("XINH-01", leaf.serial_number > 0 and leaf.serial_number.bit_length() // 8 + 1 <= 20, leaf.serial_number)
    check_dates(leaf)
    now = datetime.datetime.now(datetime.timezone.utc)
    check("valid now", leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc, leaf.not_valid_after_utc)

    above = chain[0]
    check("XINH-04", len(list(above.subject)) > 0 and leaf.issuer == above.subject, leaf.issuer)
    authority = extension(leaf, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    subject = extension(above, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    same = authority and subject and authority.value.key_identifier == subject.value.digest
    check("XINH-05", same and not authority.critical and not subject.critical, authority)
    check("XINH-07", leaf.not_valid_after_utc <= above.not_valid_after_utc, above.not_valid_after_utc)
    digest = leaf.signature_hash_algorithm.name
    check("XINH-08", digest in ("sha256", "sha384", "sha512"), digest)
    check_signed_part(leaf, above)


def check_signed_part(leaf, above):
    """The signature holds, and does not when the ID or the key were another one."""
    signed = leaf.tbs_certificate_bytes
    name = uri_names(leaf)[0].encode()
    key = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def holds(octets):
        try:
            above.public_key().verify(leaf.signature, octets, ec.ECDSA(leaf.signature_hash_algorithm))
        except InvalidSignature:
            return False
        return True

    def flipped(part):
        return signed.replace(part, part[:-1] + bytes([part[-1] ^ 1]))

    check("SVID-01", holds(signed), "the authority of the trust domain has signed it")
    check("SVID-07", signed.count(name) == 1 and not holds(flipped(name)), name)
    check("SVID-08", signed.count(key) == 1 and not holds(flipped(key)), key.hex())


def check_authority(certificate):
    """One authority of `example.org` that is a root."""
    constraints = extension(certificate, ExtensionOID.BASIC_CONSTRAINTS)
    check("XSVID-08, XSVID-15", constraints is not None and constraints.value.ca, constraints)
    check("XINH-03", constraints is not None and constraints.critical, constraints)
    usage = extension(certificate, ExtensionOID.KEY_USAGE)
    check("XSVID-20, XSVID-21 authority", usage is not None and usage.critical, usage)
    check("XSVID-08, XSVID-22", "key_cert_sign" in usages(certificate), usage)
    check("XSVID-37", "digital_signature" not in usages(certificate), usage)
    check("XSVID-23", "crl_sign" in usages(certificate), usage)
    check("XSVID-38", usages(certificate) <= {"key_cert_sign", "crl_sign"}, usage)
    uris = uri_names(certificate)
    check("SVID-03, XSVID-09", len(uris) == 1 and uris[0].startswith("spiffe://"), uris)
    check("SVID-04, XSVID-11", uris == ["spiffe://example.org"], uris)
    check("SVID-05, XSVID-10", uris == ["spiffe://example.org"], uris)
    is_own_issuer = certificate.issuer == certificate.subject
    check("SVID-06", is_own_issuer and is_signed_by(certificate, certificate), "self-signed")
    check("XINH-04 authority", len(list(certificate.subject)) > 0, certificate.subject)
    check("XINH-05 authority", extension(certificate, ExtensionOID.SUBJECT_KEY_IDENTIFIER) is not None)
    check("XINH-01 authority", 0 < certificate.serial_number < 1 << 159, certificate.serial_number)
    check_dates(certificate)
    check("XSVID-30", extension(certificate, ExtensionOID.EXTENDED_KEY_USAGE) is None)
    check("XSVID-17", extension(certificate, ExtensionOID.NAME_CONSTRAINTS) is None)
