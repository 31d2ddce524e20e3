"""The same hook on `grpc.aio` with uvloop.

grpcio_aio.py HOST:PORT
"""

import asyncio
import sys

import grpc
import uvloop

from coprocess.gateways.tyk.wire import SERVICE, Object


async def dispatch(message, context):
    if message.hook_name == "MyPreMiddleware":
        message.request.set_headers["myheader"] = "myvalue"
    return message


async def serve(address):
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(dispatch, Object.FromString, Object.SerializeToString)
    # Both, as the code that grpcio-tools generates does: registered methods are quicker.
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Dispatch": method})])
    server.add_registered_method_handlers(SERVICE, {"Dispatch": method})
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(serve(sys.argv[1]))
