starred = "by a star"
_hidden = 1


def greet():
    return "hello of siblings"
