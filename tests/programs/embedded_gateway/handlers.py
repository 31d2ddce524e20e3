"""What plugins ask of the gateway itself."""

import threading

from gateway import TykGateway as tyk
from tyk.decorators import *

seen = []
arrived = threading.Event()


@Pre
def Stores(request, session, spec):
    assert tyk.get_data("missing") == b""
    assert tyk.get_data("missing").decode() == ""
    tyk.store_data("key", "value", 60)
    tyk.store_data("for_good", "value", 0)
    request.add_header("X-Data", tyk.get_data("key").decode())
    return request, session


@Pre
def Logs(request, session, spec):
    tyk.log("to debug", "debug")
    tyk.log("to info", "info")
    tyk.log("to warning", "warning")
    tyk.log("to error", "error")
    tyk.log("to somewhere", "loud")
    tyk.log_error("outside of an exception")
    try:
        {}["absent"]
    except KeyError:
        tyk.log_error("inside of one")
    return request, session


@Pre
def Triggers(request, session, spec):
    tyk.trigger_event("on_trigger", '{"Message": "hello", "n": 1}')
    return request, session


@Event
def on_trigger(event, spec):
    seen.append((event["EventMetaData"]["Message"], event.EventType, spec["APIID"]))
    arrived.set()
