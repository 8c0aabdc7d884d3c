"""A Workload API that plays a script, by gRPC C-core: what a client does with each answer is the test's affair.

Prints `{"event": "listening"}`, then for each call `{"event": "call", "path": …, "header": […], "at": seconds}`,
and `{"event": "report"}` for each line that it is told.

Arguments: the path of the socket; a JSON list with a step for each call of FetchX509SVID, the last one for all further
calls: `{"send": [names of messages], "end": name of a code}`. Without `end` the stream stays open.
"""

import datetime
import json
import sys
import threading
import time
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from workload_messages import messages

Response, _ = messages()
NOW = datetime.datetime.now(datetime.timezone.utc)


def certificate(name, key, issuer_name, issuer_key, uri, is_ca):
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(minutes=1))
        .not_valid_after(NOW + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)
        .add_extension(x509.BasicConstraints(is_ca, None), True)
        .add_extension(usage, True)
    )
    if not is_ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Authority:
    def __init__(self, trust_domain):
        self.id = f"spiffe://{trust_domain}"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.der = certificate(self.id, self.key, self.id, self.key, self.id, True)

    def svid(self, message, path, hint="", with_key=True):
        key = ec.generate_private_key(ec.SECP256R1())
        pkcs8 = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        message.svids.add(
            spiffe_id=self.id + path,
            x509_svid=certificate("workload", key, self.id, self.key, self.id + path, False),
            x509_svid_key=pkcs8 if with_key else b"",
            bundle=self.der,
            hint=hint,
        )


def prepared():
    own, partner = Authority("example.org"), Authority("partner.example")
    full, less, none, keyless, large = (Response() for _ in range(5))
    own.svid(full, "/web", "internal")
    own.svid(full, "/web/admin")
    full.federated_bundles[partner.id] = partner.der
    own.svid(less, "/web")
    own.svid(keyless, "/web", with_key=False)
    own.svid(large, "/web")
    # Just below what gRPC clients receive by default.
    large.federated_bundles[partner.id] = partner.der * ((4 * 1024 * 1024 - 8192) // len(partner.der))
    return {"full": full, "less": less, "none": none, "keyless": keyless, "large": large}


class Script(grpc.GenericRpcHandler):
    def __init__(self, steps):
        self.steps, self.messages = steps, prepared()
        self.lock = threading.Lock()

    def service(self, details):
        header = [value for key, value in details.invocation_metadata if key == "workload.spiffe.io"]
        say(event="call", path=details.method, header=header, at=time.monotonic())
        return grpc.unary_stream_rpc_method_handler(self.play, response_serializer=Response.SerializeToString)

    def play(self, request, context):
        with self.lock:
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        for name in step.get("send", []):
            yield self.messages[name]
        if "end" in step:
            context.abort(grpc.StatusCode[step["end"]], "as the script says")
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait()


def say(**event):
    print(json.dumps(event), flush=True)


def main():
    path, script = sys.argv[1:3]
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[Script(json.loads(script))])
    server.add_insecure_port(f"unix://{path}")
    server.start()
    say(event="listening")
    for _ in sys.stdin:
        say(event="report")
    server.stop(0)


main()
