"""Kumo's control plane: the API, the rows it records, and the worker that brings hosts to them."""

__version__ = "0.1.0"
