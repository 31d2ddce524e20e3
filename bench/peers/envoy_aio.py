"""Envoy's two services on `grpc.aio` with uvloop: one header set for a request, a Check that adds one.

envoy_aio.py HOST:PORT
"""

import sys

import grpc
from aio_server import run

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


if __name__ == "__main__":
    process_method = grpc.stream_stream_rpc_method_handler(
        process, wire.ProcessingRequest.FromString, wire.ProcessingResponse.SerializeToString
    )
    check_method = grpc.unary_unary_rpc_method_handler(
        check, wire.CheckRequest.FromString, wire.CheckResponse.SerializeToString
    )
    run(sys.argv[1], {wire.EXT_PROC: {"Process": process_method}, wire.EXT_AUTHZ: {"Check": check_method}})
