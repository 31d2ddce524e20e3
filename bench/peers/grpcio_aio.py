"""The same hook on `grpc.aio` with uvloop.

grpcio_aio.py HOST:PORT
"""

import sys

import grpc
from aio_server import run

from coprocess.gateways.tyk.wire import SERVICE, Object


async def dispatch(message, context):
    if message.hook_name == "MyPreMiddleware":
        message.request.set_headers["myheader"] = "myvalue"
    return message


if __name__ == "__main__":
    method = grpc.unary_unary_rpc_method_handler(dispatch, Object.FromString, Object.SerializeToString)
    run(sys.argv[1], {SERVICE: {"Dispatch": method}})
