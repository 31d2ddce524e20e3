"""Values that came as other bytes than UTF-8: handlers see them as Latin-1, and they go out as they came."""


class Latin1(str):
    """One of them. What a handler writes is none, whatever its text."""

    __slots__ = ()
