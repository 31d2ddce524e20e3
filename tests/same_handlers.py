"""Handlers that every home runs: those after who calls is known."""

AFTER_CHECK = """
@PostKeyAuth
def post_key_auth(request, session, metadata):
    request.headers["X-Caller"] = f"{session.alias or 'none'} {metadata.get('plan', 'none')}"

@Post
async def post(request):
    request.body = b"[" + request.body + b"]"

@Response
def response(response, session):
    response.headers["X-Alias"] = session.alias or "none"
    response.set_json({"was": response.json()})
    response.status = 202
"""
