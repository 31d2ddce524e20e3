"""The plainest server a Python user writes: `grpc.server` with 10 threads, as Tyk's own sample has it.

grpcio_sync.py HOST:PORT
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

from coprocess.tyk.wire import SERVICE, Object


def dispatch(message, context):
    if message.hook_name == "MyPreMiddleware":
        message.request.set_headers["myheader"] = "myvalue"
    return message


def handlers():
    dispatch_method = grpc.unary_unary_rpc_method_handler(
        dispatch, Object.FromString, Object.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Dispatch": dispatch_method})


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(10))
    server.add_generic_rpc_handlers([handlers()])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()
