"""py-spiffe watching while its agent goes away and comes back: prints `{"event": "svid", "serial": …}` for each update.

Arguments: the address of the Workload API, the user to become.
"""

import encodings.idna  # noqa: F401: loaded before we are another user, who may not read the interpreter's folder
import json
import os
import sys
import threading

from spiffe import WorkloadApiClient


def say(**event):
    print(json.dumps(event), flush=True)


def main():
    endpoint, uid = sys.argv[1:3]
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    client = WorkloadApiClient(endpoint)

    def updated(context):
        say(event="svid", serial=format(context.default_svid.leaf.serial_number, "x"))

    client.stream_x509_contexts(updated, lambda error: say(event="final", error=f"{type(error).__name__}: {error}"))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    threading.Event().wait()


main()
