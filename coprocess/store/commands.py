"""What goes over the wire for each operation: keys, values and times to live, checked and encoded."""

from __future__ import annotations

import math
from typing import Any

from coprocess.errors import StoreError

KEY_PREFIX = "coprocess-data:"  # Shared with the gateway's own plugins.
MAX_TTL_S = 1e12  # Above, the server's arithmetic in milliseconds overflows.

LOCK_PREFIX = KEY_PREFIX + "lock:"

Value = str | bytes | int | float

# One command, hence atomic, and one that a cluster accepts as it has one key.
INCREMENT_SCRIPT = """
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
if is_new then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return total
"""

# As PEXPIRE, which cannot say "never", and whose twin PERSIST does not say whether there is such a key.
PERSIST_SCRIPT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('PERSIST', KEYS[1])
return 1
"""

# To take a lock twice is the same as once: the answer to the first try may have been lost.
ACQUIRE_SCRIPT = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
"""

# Only one's own: it may have expired, and be somebody else's now.
EXTEND_SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
RELEASE_SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


def encode_key(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"a store key must be str, not {type(key).__name__}")
    if not key:
        raise ValueError("a store key must not be empty")
    return (KEY_PREFIX + key).encode()


def set_command(key: str, value: Value, ttl_s: float | None) -> tuple[Any, ...]:
    command = ("SET", encode_key(key), _encode_value(value))
    return command if ttl_s is None else (*command, "PX", _ttl_ms(ttl_s))


def set_if_absent_command(key: str, value: Value, ttl_s: float | None) -> tuple[Any, ...]:
    return (*set_command(key, value, ttl_s), "NX")


def expire_command(key: str, ttl_s: float | None) -> tuple[Any, ...]:
    if ttl_s is None:
        return ("EVAL", PERSIST_SCRIPT, 1, encode_key(key))
    return ("PEXPIRE", encode_key(key), _ttl_ms(ttl_s))


def acquire_command(name: str, token: str, ttl_s: float) -> tuple[Any, ...]:
    return ("EVAL", ACQUIRE_SCRIPT, 1, _encode_lock(name), token, _ttl_ms(ttl_s))


def extend_command(name: str, token: str, ttl_s: float) -> tuple[Any, ...]:
    return ("EVAL", EXTEND_SCRIPT, 1, _encode_lock(name), token, _ttl_ms(ttl_s))


def release_command(name: str, token: str) -> tuple[Any, ...]:
    return ("EVAL", RELEASE_SCRIPT, 1, _encode_lock(name), token)


def _encode_lock(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a lock's name must be str, not {type(name).__name__}")
    if not name:
        raise ValueError("a lock's name must not be empty")
    return (LOCK_PREFIX + name).encode()


def increment_command(key: str, by: int, ttl_s: float | None) -> tuple[Any, ...]:
    if not isinstance(by, int) or isinstance(by, bool):
        raise TypeError(f"by must be int, not {type(by).__name__}")
    if ttl_s is None:
        return ("INCRBY", encode_key(key), by)
    return ("EVAL", INCREMENT_SCRIPT, 1, encode_key(key), by, _ttl_ms(ttl_s))


def decode_text(key: str, value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"the value of key {key[:100]!r} is not UTF-8 text: {error.reason}") from None


def _encode_value(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    # bool is a kind of int, but "True" is hardly what anyone wants to read back.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    raise TypeError(f"a store value must be str, bytes, int or float, not {type(value).__name__}")


def _ttl_ms(ttl_s: float) -> int:
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool):
        raise TypeError(f"ttl_s must be a number of seconds or None, not {type(ttl_s).__name__}")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"ttl_s must be greater than 0 and at most {MAX_TTL_S:g} seconds, not {ttl_s!r}")
    return math.ceil(ttl_s * 1000)
