"""The plainest server a Python user writes: `grpc.server` with 10 threads, as Tyk's own sample has it.

grpcio_sync.py HOST:PORT
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

from coprocess.gateways.tyk.wire import SERVICE, Object


def dispatch(message, context):
    if message.hook_name == "MyPreMiddleware":
        message.request.set_headers["myheader"] = "myvalue"
    return message


def register(server):
    # Both, as the code that grpcio-tools generates does: registered methods are quicker.
    method = grpc.unary_unary_rpc_method_handler(dispatch, Object.FromString, Object.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Dispatch": method})])
    server.add_registered_method_handlers(SERVICE, {"Dispatch": method})


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(10))
    register(server)
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()
