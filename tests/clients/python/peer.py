"""A workload as its authors would write it: py-spiffe and spiffe-tls (gRPC C-core, OpenSSL), nothing of ours.

It serves and dials mutual TLS at the same time, with the newest SVID, as ../README.md says.

Arguments: the address of the Workload API, the user to become, the SPIFFE IDs of its peers with commas between them.
"""

import encodings.idna  # noqa: F401: loaded before we are another user, who may not read the interpreter's folder
import json
import os
import socket
import sys
import threading
import time

from OpenSSL import SSL
from spiffe import SpiffeId
from spiffe.workloadapi.x509_source import X509Source
from spiffetls.context import create_ssl_context
from spiffetls.tlsconfig.authorize import authorize_one_of

HANDSHAKE_DEADLINE = 20.0
said = threading.Lock()


def say(**event):
    with said:
        print(json.dumps(event), flush=True)


class Frozen:
    """One revision of a source.

    spiffe-tls changes certificate and key of a living context one after the other, so a handshake that falls in
    between meets a pair that does not match. A context is cheap: here each revision has its own.
    """

    def __init__(self, context):
        self.svid = context.default_svid
        self.bundles = context.x509_bundle_set.bundles

    def subscribe_for_updates(self, callback):
        pass


class Peer:
    def __init__(self, source, peer_ids):
        self.source = source
        self.authorize = authorize_one_of({SpiffeId(peer_id) for peer_id in peer_ids})
        self.counts = dict(dialed=0, dial_failed=0, served=0, serve_failed=0)
        self.ports = {}
        self.lock = threading.Lock()
        self.last_serial = None
        self.paused = False
        self.renew()
        source.subscribe_for_updates(self.renew)

    def renew(self):
        revision = Frozen(self.source.get_x509_context())
        required = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        server = create_ssl_context(SSL.TLS_SERVER_METHOD, revision, self.authorize, required)
        client = create_ssl_context(SSL.TLS_CLIENT_METHOD, revision, self.authorize, SSL.VERIFY_PEER)
        # A resumed session would not show the new certificate.
        server.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        with self.lock:
            self.server_context, self.client_context = server, client
        serial = format(revision.svid.leaf.serial_number, "x")
        if serial != self.last_serial:
            self.last_serial = serial
            say(event="svid", spiffe_id=str(revision.svid.spiffe_id), serial=serial)

    def account(self, role, good, bad, talk):
        try:
            talk()
        except Exception as error:  # noqa: BLE001: whatever went wrong is what the test wants to know
            with self.lock:
                self.counts[bad] += 1
            say(event="failed", role=role, error=f"{type(error).__name__}: {error}")
        else:
            with self.lock:
                self.counts[good] += 1

    def serve(self, listener):
        while True:
            tcp, _ = listener.accept()
            threading.Thread(
                target=self.account, args=("serve", "served", "serve_failed", lambda tcp=tcp: self.answer(tcp)), daemon=True
            ).start()

    def answer(self, tcp):
        with tcp:
            with self.lock:
                context = self.server_context
            tls = blocking(context, tcp)
            tls.set_accept_state()
            tls.do_handshake()
            if read_exact(tls, 4) != b"ping":
                raise ValueError("a strange question")
            tls.sendall(b"pong")
            tls.shutdown()

    def dial(self, port):
        while True:
            if not self.paused:
                self.account("dial", "dialed", "dial_failed", lambda: self.ask(port))
            time.sleep(0.02)

    def ask(self, port):
        self.talk(port)
        with self.lock:
            self.ports[port] = self.ports.get(port, 0) + 1

    def talk(self, port):
        with socket.create_connection(("127.0.0.1", port)) as tcp:
            with self.lock:
                context = self.client_context
            tls = blocking(context, tcp)
            tls.set_connect_state()
            tls.do_handshake()
            tls.sendall(b"ping")
            # In TLS 1.3 the client hears only here whether the server has accepted it.
            if read_exact(tls, 4) != b"pong":
                raise ValueError("a strange answer")


def blocking(context, tcp):
    """A connection whose calls end after a deadline; pyOpenSSL wants the socket itself to block."""
    tcp.setblocking(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        tcp.setsockopt(socket.SOL_SOCKET, option, int(HANDSHAKE_DEADLINE).to_bytes(8, sys.byteorder) + bytes(8))
    return SSL.Connection(context, tcp)


def read_exact(tls, size):
    data = b""
    while len(data) < size:
        data += tls.recv(size - len(data))
    return data


def main():
    endpoint, uid, peer_ids = sys.argv[1:4]
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    try:
        source = X509Source(socket_path=endpoint, timeout_in_seconds=30)
    except Exception as error:  # noqa: BLE001
        say(event="no_source", error=f"{type(error).__name__}: {error}")
        return
    peer = Peer(source, peer_ids.split(","))
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    say(event="listening", port=listener.getsockname()[1])
    threading.Thread(target=peer.serve, args=(listener,), daemon=True).start()
    for line in sys.stdin:
        command = json.loads(line)
        if "dial" in command:
            threading.Thread(target=peer.dial, args=(command["dial"],), daemon=True).start()
        if "pause" in command:
            peer.paused = command["pause"]
        if command.get("report"):
            with peer.lock:
                counts = dict(peer.counts, ports=peer.ports.copy())
            say(event="report", **counts)
    # The threads of gRPC and ours have nothing left to save.
    os._exit(0)


main()
