from tyk.decorators import *


@Pre
def MyPreMiddleware(request, session, spec):
    request.add_header("myheader", "myvalue")
    return request, session
