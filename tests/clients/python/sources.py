"""Two sources of py-spiffe, one as it is by default and one that picks the SVID of a task, and spiffe-tls on top of them."""

import socket
import sys

from OpenSSL import SSL
from spiffe import SpiffeId
from spiffe.workloadapi.x509_source import X509Source
from spiffetls.context import create_ssl_context
from spiffetls.tlsconfig.authorize import authorize_id

DEADLINE = 20


class Sources:
    def __init__(self, endpoint, hint):
        self.endpoint, self.hint, self.only_task = endpoint, hint, None
        self.sources = {
            "default": X509Source(socket_path=endpoint, timeout_in_seconds=30),
            "picked": X509Source(socket_path=endpoint, timeout_in_seconds=30, svid_picker=self.pick),
        }

    def of_task(self, svids):
        """The library tells no hints, but a task is in its SPIFFE ID as well."""
        return [svid for svid in svids if svid.spiffe_id.path.startswith(f"/{self.hint}/")]

    def pick(self, svids):
        return (self.of_task(svids) or svids)[0]

    def strict(self):
        """What a source has that takes nothing but the SVID of the task, and raises an error where there is none."""
        try:
            self.only_task = self.only_task or X509Source(
                socket_path=self.endpoint, timeout_in_seconds=30, svid_picker=lambda svids: self.of_task(svids)[0]
            )
            return dict(has=one(self.only_task.get_x509_context().default_svid))
        except Exception as error:  # noqa: BLE001: whatever went wrong is what the test wants to know
            return dict(has=None, error=f"{type(error).__name__}: {error}")

    def content(self):
        """What they have now."""
        return {name: one(source.get_x509_context().default_svid) for name, source in self.sources.items()}

    def reach(self, port, server, **told):
        source = self.sources[told["with"]]
        try:
            context = create_ssl_context(SSL.TLS_CLIENT_METHOD, source, authorize_id(SpiffeId(server)), SSL.VERIFY_PEER)
            return dict(answer=get(context, port))
        except Exception as error:  # noqa: BLE001: whatever went wrong is what the test wants to know
            return dict(answer=None, error=f"{type(error).__name__}: {error}")


def one(svid):
    return dict(spiffe_id=str(svid.spiffe_id), hint=None, serial=format(svid.leaf.serial_number, "x"))


def get(context, port):
    with socket.create_connection(("127.0.0.1", port)) as tcp:
        # pyOpenSSL wants the socket itself to block.
        tcp.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            tcp.setsockopt(socket.SOL_SOCKET, option, DEADLINE.to_bytes(8, sys.byteorder) + bytes(8))
        tls = SSL.Connection(context, tcp)
        tls.set_connect_state()
        tls.do_handshake()
        tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        try:
            while True:
                answer += tls.recv(4096)
        except SSL.ZeroReturnError:
            pass
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"answered {answer}")
        return body.decode()
