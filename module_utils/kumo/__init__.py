"""What a Kumo host is made of: pure plan_ functions and the thin read_ and apply_ functions around them.

Runs on hosts, with Debian's Python packages only; never imports ``web``. Next room: ``library/``.
"""
