"""What Envoy makes of the header and body edits in an ext_proc reply."""

from __future__ import annotations

from coprocess.desk.envoy.simulator.headers import HeaderMap, is_valid_name, is_valid_value
from coprocess.desk.envoy.simulator.mutation_rules import MutationRules, Verdict
from coprocess.gateways.envoy import wire

#: The connection manager's limits of one message, which edits must keep.
MAX_HEADERS = 100
MAX_HEADERS_BYTES = 60 * 1024


class InvalidMutation(Exception):
    """The reply as a whole is an error. The text is Envoy's."""


def apply_header_mutation(
    mutation: wire.HeaderMutation,
    headers: HeaderMap,
    rules: MutationRules,
    *,
    replacing: bool = False,
    keeps_length_out: bool = False,
) -> int:
    """Edit `headers`: removals first, then sets in order. Returns how many edits were refused in silence.

    `replacing`: the reply is CONTINUE_AND_REPLACE, which may change the method. `keeps_length_out`: the
    body is sent in a mode in which Envoy removes content-length. Raises InvalidMutation; the edits before
    the one at fault have been made then.
    """
    if max(len(mutation.remove_headers), len(mutation.set_headers)) > MAX_HEADERS:
        raise InvalidMutation("header_mutation_operation_count_exceeds_limit")
    refused = 0
    for name in mutation.remove_headers:
        if not is_valid_name(name):
            raise InvalidMutation("header_mutation_remove_contains_invalid_character")
        verdict = rules.judge_removal(name)
        if verdict is Verdict.FAILS:
            raise InvalidMutation("header_mutation_remove_headers_failed")
        if verdict is Verdict.TAKEN:
            headers.remove(name)
        else:
            refused += 1
    for option in mutation.set_headers:
        if not option.HasField("header"):
            continue
        name = option.header.key
        # `value` is not looked at.
        value = option.header.raw_value.decode("latin-1")
        if not is_valid_name(name) or not is_valid_value(value):
            raise InvalidMutation("header_mutation_set_contains_invalid_character")
        if keeps_length_out and name.lower() == "content-length":
            continue
        is_appended = option.append.value and name in headers
        verdict = rules.judge_set(name, value, is_appended=is_appended)
        if replacing and name.lower() == ":method":
            verdict = Verdict.TAKEN
        if verdict is Verdict.FAILS:
            raise InvalidMutation("header_mutation_set_headers_failed")
        if verdict is Verdict.IGNORED:
            refused += 1
        # `append_action` is not looked at (envoy#36982).
        elif option.append.value:
            headers.add(name, value)
        else:
            headers.set(name, value)
    if len(headers) > MAX_HEADERS or headers.size_bytes > MAX_HEADERS_BYTES:
        raise InvalidMutation("header_mutation_result_exceeds_limit")
    return refused


def mutated_body(mutation: wire.BodyMutation, body: bytes) -> bytes:
    """What becomes of `body`, in every mode but FULL_DUPLEX_STREAMED."""
    kind = mutation.WhichOneof("mutation")
    if kind == "body":
        return mutation.body
    if kind == "clear_body" and mutation.clear_body:
        return b""
    return body
