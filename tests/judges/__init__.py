"""Judges that nobody here wrote: what HTTP/2 and gRPC say, tried on the http2 engine."""
