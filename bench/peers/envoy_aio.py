"""Envoy's two services on `grpc.aio` with uvloop: one header set for a request, a Check that adds one.

envoy_aio.py HOST:PORT
"""

import asyncio
import sys

import grpc
import uvloop

from coprocess.gateways.envoy import wire

_HEADER = wire.HeaderValue(key="x-bench", raw_value=b"1")


def _edits():
    option = wire.HeaderValueOption(header=_HEADER)
    return wire.CommonResponse(header_mutation=wire.HeaderMutation(set_headers=[option]))


async def process(request_iterator, context):
    async for asked in request_iterator:
        if asked.HasField("request_headers"):
            yield wire.ProcessingResponse(request_headers=wire.HeadersResponse(response=_edits()))
        else:
            yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())


async def check(request, context):
    option = wire.HeaderValueOption(header=_HEADER)
    return wire.CheckResponse(status=wire.Status(), ok_response=wire.OkHttpResponse(headers=[option]))


async def serve(address):
    server = grpc.aio.server()
    methods = {
        wire.EXT_PROC: {
            "Process": grpc.stream_stream_rpc_method_handler(
                process, wire.ProcessingRequest.FromString, wire.ProcessingResponse.SerializeToString
            )
        },
        wire.EXT_AUTHZ: {
            "Check": grpc.unary_unary_rpc_method_handler(
                check, wire.CheckRequest.FromString, wire.CheckResponse.SerializeToString
            )
        },
    }
    for service, handlers in methods.items():
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        server.add_registered_method_handlers(service, handlers)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(serve(sys.argv[1]))
