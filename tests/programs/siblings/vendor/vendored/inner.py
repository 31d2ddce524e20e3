def helper():
    return "vendored helper"
