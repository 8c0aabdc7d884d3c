"""The Workload API seen by gRPC C-core, without any SPIFFE library: another HTTP/2 stack, other parsers, OpenSSL.

Prints one line of JSON for each check: `{"event": "check", "row": …, "ok": …, "seen": …}`, then `{"event": "done"}`.
The rows are those of the conformance list. Messages are read by a protobuf schema that is built here from field
numbers, so that nothing of ours is used to check ours.

Arguments: the path of the socket, the user to become, the SPIFFE ID that this user has.
"""

import encodings.idna  # noqa: F401: loaded before we are another user, who may not read the interpreter's folder
import datetime
import json
import os
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from OpenSSL import crypto

HEADER = (("workload.spiffe.io", "true"),)


def messages():
    """X509SVIDResponse and X509BundlesResponse, from the numbers of the published interface."""
    file = descriptor_pb2.FileDescriptorProto(name="check.proto", syntax="proto3")
    repeated, optional = 3, 1
    text, octets, message = 9, 12, 11

    def add(parent, name, fields):
        new = parent.add(name=name)
        for number, (field, label, kind, type_name) in fields.items():
            new.field.add(name=field, number=number, label=label, type=kind, **({"type_name": type_name} if type_name else {}))
        return new

    def bundle_map(parent, name):
        entry = add(parent.nested_type, name, {1: ("key", optional, text, ""), 2: ("value", optional, octets, "")})
        entry.options.map_entry = True

    add(
        file.message_type,
        "X509SVID",
        {
            1: ("spiffe_id", optional, text, ""),
            2: ("x509_svid", optional, octets, ""),
            3: ("x509_svid_key", optional, octets, ""),
            4: ("bundle", optional, octets, ""),
            5: ("hint", optional, text, ""),
        },
    )
    bundle_map(
        add(
            file.message_type,
            "X509SVIDResponse",
            {
                1: ("svids", repeated, message, ".X509SVID"),
                2: ("crl", repeated, octets, ""),
                3: ("federated_bundles", repeated, message, ".X509SVIDResponse.FederatedBundlesEntry"),
            },
        ),
        "FederatedBundlesEntry",
    )
    bundle_map(
        add(
            file.message_type,
            "X509BundlesResponse",
            {
                1: ("crl", repeated, octets, ""),
                2: ("bundles", repeated, message, ".X509BundlesResponse.BundlesEntry"),
            },
        ),
        "BundlesEntry",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClassesForFiles(["check.proto"], pool)
    return made["X509SVIDResponse"], made["X509BundlesResponse"]


def say(**event):
    print(json.dumps(event), flush=True)


def check(row, ok, seen=""):
    say(event="check", row=row, ok=bool(ok), seen=str(seen))


def stream(channel, path, response=bytes, metadata=HEADER, timeout=10):
    decode = response.FromString if response is not bytes else None
    call = channel.unary_stream(path, request_serializer=lambda _: b"", response_deserializer=decode)
    return call(None, metadata=metadata, timeout=timeout)


def failure(call):
    """Code and message that a call ends with."""
    try:
        for _ in call:
            return None, "a message"
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, "the end"


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


def check_leaf(svid, leaf):
    names = extension(leaf, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    check("XSVID-01", uris == [svid.spiffe_id], uris)
    check("WAX-04 ID", uris == [svid.spiffe_id], svid.spiffe_id)
    check("XSVID-05", svid.spiffe_id.startswith("spiffe://example.org/"), svid.spiffe_id)
    check("XSVID-07", leaf.subject.rfc4514_string() or names.critical, leaf.subject)
    check("IOP-30", leaf.subject.rfc4514_string() != "", leaf.subject)
    constraints = extension(leaf, ExtensionOID.BASIC_CONSTRAINTS)
    check("IOP-06", constraints is not None, constraints)
    check("XSVID-16, WAX-05", constraints is not None and not constraints.value.ca, constraints)
    check("XSVID-18", extension(leaf, ExtensionOID.NAME_CONSTRAINTS) is None)
    usage = extension(leaf, ExtensionOID.KEY_USAGE)
    check("XSVID-20, XSVID-21", usage is not None and usage.critical, usage)
    check("XSVID-24", usage.value.digital_signature, usage)
    check("XSVID-26", not usage.value.key_cert_sign and not usage.value.crl_sign, usage)
    check("XSVID-25", not usage.value.key_encipherment and not usage.value.key_agreement, usage)
    purposes = extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    check("XSVID-27, XSVID-29", purposes is not None and wanted <= set(purposes.value), purposes)
    check("RFC 5280 4.1.2.2", 0 < leaf.serial_number < 1 << 159, leaf.serial_number)
    now = datetime.datetime.now(datetime.timezone.utc)
    check("RFC 5280 4.1.2.5", leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc, leaf.not_valid_after_utc)
    check("RFC 5280 4.2.1.1", extension(leaf, ExtensionOID.AUTHORITY_KEY_IDENTIFIER) is not None)


def check_authority(certificate):
    constraints = extension(certificate, ExtensionOID.BASIC_CONSTRAINTS)
    check("XSVID-08, XSVID-15", constraints is not None and constraints.value.ca and constraints.critical, constraints)
    usage = extension(certificate, ExtensionOID.KEY_USAGE)
    check("XSVID-20, XSVID-21 authority", usage is not None and usage.critical, usage)
    check("XSVID-22", usage.value.key_cert_sign, usage)
    check("XSVID-37", not usage.value.digital_signature, usage)
    check("XSVID-38", not usage.value.key_encipherment and not usage.value.key_agreement, usage)
    names = extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    check("XSVID-09, XSVID-10, XSVID-11", uris == ["spiffe://example.org"], uris)
    check("XSVID-44", certificate.issuer == certificate.subject, certificate.subject)
    check("XSVID-30", extension(certificate, ExtensionOID.EXTENDED_KEY_USAGE) is None)
    check("XSVID-17", extension(certificate, ExtensionOID.NAME_CONSTRAINTS) is None)


def check_identity(channel, expected):
    response, bundles_response = messages()
    call = stream(channel, "/SpiffeWorkloadAPI/FetchX509SVID", response)
    answer = next(iter(call))
    call.cancel()
    check("WAX-01", len(answer.svids) >= 1, len(answer.svids))
    check("WAX-02", [svid.spiffe_id for svid in answer.svids] == [expected], [svid.spiffe_id for svid in answer.svids])
    for svid in answer.svids:
        check("WAX-03", all([svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle]))
        leaf, *intermediates = certificates(svid.x509_svid)
        roots = certificates(svid.bundle)
        check("WAX-07", True, f"{1 + len(intermediates)} and {len(roots)} certificates, nothing behind them")
        check_leaf(svid, leaf)
        check("IOP-08", all(root not in intermediates for root in roots))
        for root in roots:
            check_authority(root)
        key = serialization.load_der_private_key(svid.x509_svid_key, None)
        check("WAX-08", svid.x509_svid_key == key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) or svid.x509_svid_key.find(bytes.fromhex("06072a8648ce3d0201")) in range(4, 16), "PrivateKeyInfo")
        check("WAX-04 key", key.public_key() == leaf.public_key())
        check("defaults of the design: P-256", isinstance(key.curve, ec.SECP256R1), key.curve)
        store = crypto.X509Store()
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        try:
            crypto.X509StoreContext(
                store, crypto.X509.from_cryptography(leaf), [crypto.X509.from_cryptography(c) for c in intermediates]
            ).verify_certificate()
            check("WAX-09", True, "OpenSSL verifies the chain against the bundle alone")
        except crypto.X509StoreContextError as error:
            check("WAX-09", False, error)
    check("WAX-11", "spiffe://example.org" not in answer.federated_bundles, list(answer.federated_bundles))
    check("IOP-10", all(answer.federated_bundles.values()))
    check("WAX-12", list(answer.crl) == [], len(answer.crl))

    call = stream(channel, "/SpiffeWorkloadAPI/FetchX509Bundles", bundles_response)
    answer = next(iter(call))
    call.cancel()
    check("WAX-19, IOP-09", "spiffe://example.org" in answer.bundles, list(answer.bundles))
    check("WAX-21", list(answer.crl) == [])
    own = certificates(answer.bundles["spiffe://example.org"])
    check("WAX-07 bundles", own == roots, len(own))


def check_header(channel):
    values = [None, "", "True", "TRUE", "1", "false", "true "]
    paths = [
        f"/SpiffeWorkloadAPI/{name}"
        for name in (
            "FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID", "FetchWITSVID",
            "FetchWITBundles",
        )
    ]
    for path in paths:
        for value in values:
            # C-core takes trailing white space away before it sends; what is left is the right value.
            if value == "true ":
                continue
            metadata = () if value is None else (("workload.spiffe.io", value),)
            code, details = failure(stream(channel, path, metadata=metadata))
            check(f"WEP-08, WEP-23 {path} {value!r}", code == grpc.StatusCode.INVALID_ARGUMENT, f"{code} {details}")
    twice = (("workload.spiffe.io", "false"), ("workload.spiffe.io", "true"))
    code, details = failure(stream(channel, paths[0], metadata=twice))
    check("WEP-08 twice", code == grpc.StatusCode.INVALID_ARGUMENT, f"{code} {details}")
    for path in ("/SpiffeWorkloadAPI/FetchEverything", "/spiffe.Other/Thing", paths[2], paths[5]):
        code, details = failure(stream(channel, path))
        check(f"WEP-29 {path}", code == grpc.StatusCode.UNIMPLEMENTED, f"{code} {details}")


def check_others(channel):
    """Reflection and health, without the header (IOP-24)."""
    health = health_pb2_grpc.HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
    check("IOP-24 health", status == health_pb2.HealthCheckResponse.SERVING, status)
    for package in ("v1", "v1alpha"):
        call = channel.stream_stream(
            f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        ask = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="SpiffeWorkloadAPI"),
        ]
        listed, described = list(call(iter(ask), timeout=10))
        names = sorted(service.name for service in listed.list_services_response.service)
        check(f"WEP-33, WEP-34 {package}", "SpiffeWorkloadAPI" in names, names)
        check(f"WEP-32 {package}", "grpc.health.v1.Health" in names, names)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(octets)
            for octets in described.file_descriptor_response.file_descriptor_proto
        ]
        service = [service for file in files for service in file.service if service.name == "SpiffeWorkloadAPI"]
        methods = sorted(method.name for method in service[0].method) if service else []
        published = [
            "FetchJWTBundles", "FetchJWTSVID", "FetchWITBundles", "FetchWITSVID", "FetchX509Bundles", "FetchX509SVID",
            "ValidateJWTSVID",
        ]
        check(f"WEP-31, WAPI-04, WAPI-05 {package}", methods == published, methods)


def main():
    path, uid, expected = sys.argv[1:4]
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    # The authority that C-core makes of a Unix socket by itself, and what users set instead (IOP-01).
    for options in ((), (("grpc.default_authority", "localhost"),), (("grpc.default_authority", "a b%/\\ü"),)):
        with grpc.insecure_channel(f"unix://{path}", options=options) as channel:
            call = stream(channel, "/SpiffeWorkloadAPI/FetchX509SVID")
            try:
                size = len(next(iter(call)))
                check(f"IOP-01, WEP-03 {options}", size > 100, f"{size} octets")
            except grpc.RpcError as error:
                check(f"IOP-01, WEP-03 {options}", False, f"{error.code()} {error.details()}")
            call.cancel()
    with grpc.insecure_channel(f"unix://{path}") as channel:
        check_identity(channel, expected)
        check_header(channel)
        check_others(channel)
        # One-shot clients read one message and cancel; nothing may be left of them (IOP-18, IOP-19).
        for _ in range(300):
            call = stream(channel, "/SpiffeWorkloadAPI/FetchX509SVID")
            next(iter(call))
            call.cancel()
        check("IOP-18, IOP-19", True, "300 one-shot calls on one connection")
    say(event="done")


main()
