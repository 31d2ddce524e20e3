"""Trials of the running service under load, faults and hostile input.

`make chaos` runs the long form of all of them; tests/test_chaos.py the short one.
"""
