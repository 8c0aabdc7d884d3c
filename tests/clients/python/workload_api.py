"""The Workload API seen by gRPC C-core, without any SPIFFE library: another HTTP/2 stack, other parsers, OpenSSL.

Prints a line for each check as `certificates.py` does, then `{"event": "done"}`. Messages are read by the schema of
`workload_messages.py`, so that nothing of ours is used to check ours.

Arguments: the path of the socket, the user to become, the SPIFFE ID that this user has.
"""

import encodings.idna  # noqa: F401: loaded before we are another user, who may not read the interpreter's folder
import os
import sys

import grpc
from certificates import certificates, check, check_authority, check_leaf, is_signed_by, say, uri_names, verifies
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from workload_messages import HEADER, messages


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


def are_lists(ders, authorities):
    """Whether each is a list that one of the authorities signed, of another one than the others'; the base authority has none."""
    lists = [x509.load_der_x509_crl(der) for der in ders]
    signers = [[root for root in authorities if each.is_signature_valid(root.public_key())] for each in lists]
    distinct = {root.fingerprint(hashes.SHA256()) for [root] in signers} if all(len(s) == 1 for s in signers) else set()
    return len(distinct) == len(lists) == len(authorities) - 1


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
        check("WAX-04 ID", uri_names(leaf) == [svid.spiffe_id], svid.spiffe_id)
        check("WAX-05", uri_names(leaf) == [expected], "the leaf is first")
        above = [root for root in roots if is_signed_by((intermediates or [leaf])[-1], root)]
        check_leaf(leaf, svid.spiffe_id, [*intermediates, *above])
        check("IOP-08", all(root not in intermediates for root in roots))
        for root in roots:
            check_authority(root)
        key = serialization.load_der_private_key(svid.x509_svid_key, None)
        check("WAX-08", svid.x509_svid_key == key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) or svid.x509_svid_key.find(bytes.fromhex("06072a8648ce3d0201")) in range(4, 16), "PrivateKeyInfo")
        check("WAX-04 key", key.public_key() == leaf.public_key())
        check("defaults of the design: P-256", isinstance(key.curve, ec.SECP256R1), key.curve)
        trouble = verifies(roots, intermediates, leaf)
        check("WAX-09, XSVID-32", trouble is None, trouble or "OpenSSL verifies the chain against the bundle alone")
    check("WAX-11", "spiffe://example.org" not in answer.federated_bundles, list(answer.federated_bundles))
    check("IOP-10", all(answer.federated_bundles.values()))
    check("WAX-12", are_lists(answer.crl, roots), f"{len(answer.crl)} revocation lists, each of an authority in the bundle")

    call = stream(channel, "/SpiffeWorkloadAPI/FetchX509Bundles", bundles_response)
    answer = next(iter(call))
    call.cancel()
    check("WAX-19, IOP-09", "spiffe://example.org" in answer.bundles, list(answer.bundles))
    own = certificates(answer.bundles["spiffe://example.org"])
    check("WAX-21", are_lists(answer.crl, own), len(answer.crl))
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
