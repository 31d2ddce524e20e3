"""The native transport with the same hook and nothing around it: what the service can reach at best.

    native_bare.py HOST:PORT [--echo]

--echo sends the bytes back as they came (compare.py needs --no-check then).
"""

import sys
import threading

from pygrpc_native import NativeGrpcFront

from coprocess.gateways.tyk.wire import DISPATCH, Object

THREADS = 4


def set_header(payload):
    message = Object.FromString(payload)
    message.request.set_headers["myheader"] = "myvalue"
    return message.SerializeToString()


def work(front, answer):
    while (events := front.recv_batch(1)) is not None:
        for _, call_id, _, payload, _ in events:
            if payload is not None:
                front.respond(call_id, answer(payload))


if __name__ == "__main__":
    answer = bytes if "--echo" in sys.argv else set_header
    front = NativeGrpcFront(sys.argv[1], [(DISPATCH, False)], io_threads=1)
    front.start()
    threads = [threading.Thread(target=work, args=(front, answer)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
