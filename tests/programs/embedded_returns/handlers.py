"""What handlers return: more, less, and other than the documentation says."""

from tyk.decorators import *


def edit(request, session, metadata=None):
    request.add_header("X-Edited", "1")
    session.alias = "someone"
    if metadata is not None:
        metadata["token"] = "t"


@Hook
def Two(request, session, metadata, spec):
    edit(request, session, metadata)
    return request, session


@Hook
def Three(request, session, metadata, spec):
    edit(request, session, metadata)
    return request, session, metadata


@Hook
def AList(request, session, metadata, spec):
    edit(request, session, metadata)
    return [request, session, metadata]


@Hook
def Nothing(request, session, metadata, spec):
    edit(request, session, metadata)


@Hook
def OnlyRequest(request, session, metadata, spec):
    edit(request, session, metadata)
    return request


@Hook
def OnlySession(request, session, metadata, spec):
    edit(request, session, metadata)
    return session


@Hook
def OnlyMetadata(request, session, metadata, spec):
    edit(request, session, metadata)
    return metadata


@Hook
def All(request, session, metadata, spec):
    edit(request, session, metadata)
    return request, session, metadata, spec


@Hook
def WithNone(request, session, metadata, spec):
    edit(request, session, metadata)
    return request, None, None


@Hook
def SpecOfThree(request, session, spec):
    edit(request, session)
    return request, session, spec


@Hook
def Unsure(request, response, session, metadata, spec):
    response.headers["X-Edited"] = "1"
    return request, response, session, metadata, spec


@CustomKeyCheck
def UntouchedSession(request, session, metadata, spec):
    metadata["token"] = "t"
    return request, session, metadata


@Pre
def ANumber(request, session, spec):
    return 42


@Pre
def Text(request, session, spec):
    return request, "ok"


@Pre
def WrongMessage(request, session, spec):
    return request.object.return_overrides


@Pre
def NumbersAsMetadata(request, session, metadata, spec):
    return request, session, {"token": 5}


@Pre
def ACoroutine(request, session, spec):
    async def late():
        pass

    return late()
