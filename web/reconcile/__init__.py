"""The loop: which host is due, one run against it, what was seen is stored.

`status.py` is pure and may be imported by resources.
"""
