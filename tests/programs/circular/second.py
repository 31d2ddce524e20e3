import first


def name_of_first():
    return first.name()
