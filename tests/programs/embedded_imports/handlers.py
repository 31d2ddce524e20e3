"""Every import that plugins of the embedded driver have."""

import coprocess_common_pb2
import coprocess_mini_request_object_pb2 as mini
import coprocess_object_pb2
import coprocess_response_object_pb2
import coprocess_return_overrides_pb2
import gateway
import tyk
import tyk.decorators
import tyk.request as tyk_request
from coprocess_common_pb2 import HookType, Pre as PRE_NUMBER, StringSlice
from coprocess_mini_request_object_pb2 import MiniRequestObject
from coprocess_object_pb2 import Event as EventMessage, EventReply, Object
from coprocess_response_object_pb2 import Header, ResponseObject
from coprocess_return_overrides_pb2 import ReturnOverrides
from coprocess_session_state_pb2 import SessionState
from gateway import TykGateway as tyk_gateway
from tyk import session as tyk_session
from tyk.decorators import *
from tyk.event import TykEvent
from tyk.gateway import TykGateway
from tyk.request import TykCoProcessRequest
from tyk.session import AccessDefinition, AccessSpec, BasicAuthData, JWTData, Monitor, TykSession

STARRED = (Hook, Pre, Post, PostKeyAuth, CustomKeyCheck, Event)

assert tyk.decorators.Hook is Hook
assert tyk_gateway is TykGateway is gateway.TykGateway
assert tyk_request.TykCoProcessRequest is TykCoProcessRequest
assert tyk_session.TykSession is TykSession
assert mini.MiniRequestObject is MiniRequestObject
assert coprocess_object_pb2.Object is Object
assert HookType.Value("CustomKeyCheck") == coprocess_common_pb2.CustomKeyCheck == 4
assert HookType.Name(PRE_NUMBER) == "Pre"
assert HookType.Response == coprocess_common_pb2.HookType.Response == 5


@tyk.decorators.Hook
def SeesTypes(request, session, metadata, spec):
    assert isinstance(request, TykCoProcessRequest)
    assert isinstance(request.object, MiniRequestObject)
    assert isinstance(request.object.return_overrides, ReturnOverrides)
    assert isinstance(session, SessionState) and isinstance(session, TykSession)
    session.access_rights["api"].CopyFrom(
        AccessDefinition(api_name="A", api_id="api", allowed_urls=[AccessSpec(url="/", methods=["GET"])])
    )
    session.basic_auth_data.CopyFrom(BasicAuthData(password="p"))
    session.jwt_data.CopyFrom(JWTData(secret="s"))
    session.monitor.CopyFrom(Monitor(trigger_limits=[80.0]))
    return request, session, metadata
