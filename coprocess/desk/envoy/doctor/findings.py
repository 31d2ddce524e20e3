"""What the doctor finds in Envoy's configuration, and the catalogue of all it can find."""

from __future__ import annotations

from coprocess.desk.findings import Catalogue

#: Every rule: id → what it looks for. docs/envoy-desk.md tells the rest, and a test holds it to this list.
_LOOKED_FOR = {
    "envoy-yaml-broken": "A file is not YAML, or what is in it is not of the form that Envoy expects",
    "envoy-no-filter": "No ext_proc or ext_authz filter is in the files",
    "envoy-handler-broken": "A handler file could not be loaded",
    "envoy-key-unknown": "A key x-coprocess-… that does not exist, or a value that it does not take",
    "envoy-key-formatted": "A value of metadata that Envoy fills in from the request, or cannot read",
    "envoy-key-as-header": "Keys x-coprocess-… are given as request headers, which nobody looks at",
    "envoy-api-unknown": "Handlers of CustomKeyCheck are for APIs, and nothing says which one this is",
    "envoy-name-unknown": "A chain or handler is named that is not there, or nothing is there to run",
    "envoy-failure-open": "Where the service fails, Envoy lets requests pass",
    "envoy-timeout": "Envoy waits for less time than handlers may take",
    "envoy-headers-skipped": "Handlers of the request run, and Envoy does not send its headers",
    "envoy-response-skipped": "Response handlers run, and Envoy does not send the response",
    "envoy-response-unused": "Envoy sends the response, and no handler wants it",
    "envoy-body-not-sent": "A handler reads a body that Envoy does not send",
    "envoy-body-in-pieces": "A handler reads a body that comes in a mode in which no edits of headers follow",
    "envoy-body-never-ends": "A body is buffered where connections are upgraded: such a body never ends",
    "envoy-body-for-nothing": "Envoy buffers bodies that no handler reads",
    "envoy-duplex-trailers": "FULL_DUPLEX_STREAMED without trailers, which Envoy refuses",
    "envoy-body-trailers": "A handler reads a body that Envoy passes by it where it is empty before trailers",
    "envoy-buffer-limit": "Bodies that the service takes are larger than what Envoy buffers",
    "envoy-message-limit": "Bodies that Envoy buffers are larger than what the service takes",
    "envoy-replies-ignored": "observability_mode: Envoy ignores what handlers do",
    "envoy-no-answers": "disable_immediate_response: what handlers answer becomes a failure of Envoy's",
    "envoy-edits-refused": "Mutation rules refuse edits that handlers make",
    "envoy-namespaces": "Metadata of handlers that Envoy drops, as its namespace is not named",
    "envoy-route-kept": "A route asks for clear_route_cache, and the filter forbids it",
    "envoy-authz-raw-headers": "ext_authz joins headers of one name and spoils bytes above 127",
    "envoy-authz-body": "An auth handler reads the body, and ext_authz does not send it as it is",
    "envoy-authz-others": "Handlers that ext_authz cannot run are named for it",
    "envoy-authz-version": "transport_api_version is not V3",
    "envoy-authz-partly": "ext_authz asks for a part of the requests only",
    "envoy-headers-hidden": "A handler reads a header that the filter does not send",
    "envoy-route-cleared": "Every edit may choose the route anew",
    "envoy-route-disabled": "A filter is disabled on a route, or a matcher decides whether it runs",
    "envoy-route-unused": "A route changes a filter of a name that none has, which Envoy passes over",
    "envoy-upgrade-unasked": "Upgraded connections have filters of their own, and this one is not among them",
    "envoy-http-service": "The filter asks by HTTP, and the service speaks gRPC",
    "envoy-cluster": "The cluster of the service is not there, or does not speak HTTP/2, or TLS",
    "envoy-cluster-address": "The cluster leads to where the service does not listen",
}
RULES = Catalogue(_LOOKED_FOR)
