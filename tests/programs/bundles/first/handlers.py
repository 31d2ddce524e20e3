from helper import WHO
from tyk.decorators import *


@Pre
def Shared(request, session, spec):
    request.add_header("X-Who", WHO)
    return request, session
