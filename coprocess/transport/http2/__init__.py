"""A gRPC server over HTTP/2 (RFC 9113).

`connection.py` is the protocol without I/O: bytes in, events and bytes out. `grpc_connection.py` makes calls
of the events, also without I/O. `server.py` connects both to sockets.
"""
