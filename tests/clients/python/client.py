"""The Workload API as Python programs see it: py-spiffe, or gRPC C-core with the published messages and nothing else.

It speaks the contract of ../README.md. Arguments: the address of the Workload API, the user to become, and `spiffe` or
`bare`: who fetches and watches. Raw calls are bare in both; sources and what they reach are py-spiffe and spiffe-tls.
"""

import encodings.idna  # noqa: F401: loaded before we are another user, who may not read the interpreter's folder
import json
import os
import re
import sys
import threading
import time

import grpc
from cryptography import x509
from spiffe import WorkloadApiClient
from spiffe._proto import workload_pb2 as pb

from sources import Sources

HEADER = (("workload.spiffe.io", "true"),)
REQUESTS = {
    "FetchX509SVID": (pb.X509SVIDRequest, pb.X509SVIDResponse),
    "FetchX509Bundles": (pb.X509BundlesRequest, pb.X509BundlesResponse),
    "FetchJWTSVID": (pb.JWTSVIDRequest, pb.JWTSVIDResponse),
    "FetchJWTBundles": (pb.JWTBundlesRequest, pb.JWTBundlesResponse),
    "ValidateJWTSVID": (pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse),
}
said = threading.Lock()


def say(**event):
    with said:
        print(json.dumps(event), flush=True)


class Spiffe:
    """py-spiffe."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.client = None

    def library(self):
        # It refuses to be made while there is no socket.
        if self.client is None:
            self.client = WorkloadApiClient(self.endpoint)
        return self.client

    def fetch(self):
        return self.content(self.library().fetch_x509_context(timeout=30))

    def bundles(self):
        return [bundle.trust_domain.name for bundle in self.library().fetch_x509_bundles(timeout=30).bundles]

    def call(self, rpc):
        ask = {
            "FetchX509Bundles": lambda: self.bundles(),
            "FetchJWTSVID": lambda: self.library().fetch_jwt_svid({"test"}, timeout=30),
            "FetchJWTBundles": lambda: self.library().fetch_jwt_bundles(timeout=30),
            "ValidateJWTSVID": lambda: self.library().validate_jwt_svid("x.y.z", "test", timeout=30),
        }
        return ask[rpc]()

    def watch(self):
        self.library().stream_x509_contexts(
            lambda content: say(event="update", **self.content(content)),
            lambda error: say(event="ended", code=code(error), error=str(error)),
        )

    @staticmethod
    def content(content):
        svids = [
            dict(spiffe_id=str(svid.spiffe_id), hint=None, serial=format(svid.leaf.serial_number, "x"))
            for svid in content.x509_svids
        ]
        return dict(svids=svids, bundles=[bundle.trust_domain.name for bundle in content.x509_bundle_set.bundles])


class Bare:
    """grpcio."""

    def __init__(self, endpoint):
        self.channel = grpc.insecure_channel(endpoint)

    def open(self, method, request=None, metadata=HEADER, timeout=30):
        # On the wire a unary answer is a stream of one message.
        ask, answer = REQUESTS[method]
        call = self.channel.unary_stream(
            f"/SpiffeWorkloadAPI/{method}",
            request_serializer=ask.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request or ask(), metadata=metadata, timeout=timeout)

    def first(self, *args, **kwargs):
        call = self.open(*args, **kwargs)
        try:
            return next(call)
        finally:
            call.cancel()

    def fetch(self):
        return self.content(self.first("FetchX509SVID"))

    def call(self, rpc):
        if rpc == "FetchX509Bundles":
            return sorted(self.first(rpc).bundles)
        request = {
            "FetchJWTSVID": pb.JWTSVIDRequest(audience=["test"]),
            "FetchJWTBundles": pb.JWTBundlesRequest(),
            "ValidateJWTSVID": pb.ValidateJWTSVIDRequest(audience="test", svid="x.y.z"),
        }[rpc]
        return self.first(rpc, request)

    def watch(self):
        threading.Thread(target=self.watch_on, daemon=True).start()

    def watch_on(self):
        """Comes again a second after each end, except after the one code that says that this is in vain (WEP-23)."""
        while True:
            try:
                for message in self.open("FetchX509SVID", timeout=None):
                    say(event="update", **self.content(message))
                seen = "OK"
            except grpc.RpcError as error:
                seen = error.code().name
            if seen == "INVALID_ARGUMENT":
                say(event="ended", code=seen)
                return
            say(event="retry", code=seen)
            time.sleep(1)

    def raw(self, method, header):
        metadata = () if header is None else (("workload.spiffe.io", header),)
        message = self.first(method, metadata=metadata)
        return self.content(message) if method == "FetchX509SVID" else dict(svids=[], bundles=[])

    @staticmethod
    def content(message):
        svids = [
            dict(spiffe_id=svid.spiffe_id, hint=svid.hint, serial=format(leaf(svid.x509_svid).serial_number, "x"))
            for svid in message.svids
        ]
        own = {svid.spiffe_id.split("/")[2] for svid in message.svids if svid.bundle}
        return dict(svids=svids, bundles=sorted(own | set(message.federated_bundles)))


def leaf(chain):
    assert chain[:2] == b"\x30\x82", "not a certificate"
    return x509.load_der_x509_certificate(chain[: 4 + int.from_bytes(chain[2:4], "big")])


def code(error):
    """py-spiffe has the status in its text alone, if at all; below that text is gRPC's own error."""
    while error is not None:
        if isinstance(error, grpc.Call):
            return error.code().name
        named = re.search(r"StatusCode\.([A-Z_]+)", str(error))
        if named:
            return named[1]
        error = error.__cause__
    return "UNKNOWN_TO_LIBRARY"


def attempt(ask, done):
    try:
        found = ask()
    except Exception as error:  # noqa: BLE001: whatever the library says is what the test wants to know
        message = error.details() if isinstance(error, grpc.Call) else f"{type(error).__name__}: {error}"
        return code(error), message
    done(found)
    return "OK", ""


def main():
    endpoint, uid, library = sys.argv[1:4]
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    bare = Bare(endpoint)
    client = bare if library == "bare" else Spiffe(endpoint)
    sources = None
    for line in sys.stdin:
        command = json.loads(line)
        if command.get("fetch"):
            seen, message = attempt(client.fetch, lambda content: say(event="fetched", **content))
            if seen != "OK":
                say(event="refused", code=seen, message=message)
        if command.get("watch"):
            client.watch()
        if raw := command.get("raw"):
            seen, message = attempt(
                lambda: bare.raw(raw["method"], raw["header"]), lambda content: say(event="fetched", **content)
            )
            if seen != "OK":
                say(event="refused", code=seen, message=message)
        if rpc := command.get("call"):
            found = []
            seen, _ = attempt(lambda: client.call(rpc), found.append)
            bundles = found[0] if found and rpc == "FetchX509Bundles" else []
            say(event="answered", code=seen, bundles=list(bundles))
        if hint := command.get("sources"):
            sources = sources or Sources(endpoint, hint)
            seen, message = attempt(sources.content, lambda content: say(event="sources", **content))
            if seen != "OK":
                say(event="refused", code=seen, message=message)
        if command.get("strict"):
            say(event="strict", **sources.strict())
        if reach := command.get("reach"):
            say(event="reached", **sources.reach(**reach))
    # The threads of gRPC have nothing left to save.
    os._exit(0)


main()
