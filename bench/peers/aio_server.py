"""A server on `grpc.aio` with uvloop, for peers."""

import asyncio

import grpc
import uvloop


async def _serve(address, services):
    server = grpc.aio.server()
    for service, methods in services.items():
        # Both, as the code that grpcio-tools generates does: registered methods are quicker.
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        server.add_registered_method_handlers(service, methods)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def run(address, services):
    """Until it is killed. `services`: by name, their methods' handlers by name."""
    uvloop.install()
    asyncio.run(_serve(address, services))
