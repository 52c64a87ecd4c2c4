"""What any exception is to the caller of a request: one of `errors.py`'s Problems. Next room: `http.py`."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from .errors import (
    BadRequest,
    Conflict,
    Gone,
    NotAcceptable,
    NotAllowed,
    NotFound,
    Problem,
    TooLarge,
    Unavailable,
)


def as_problem(error: Exception) -> Problem:
    """The Problem that an exception is to its caller; what is unknown is a 500 without details."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestEntityTooLarge):
        return TooLarge("The body is larger than this service takes.")
    if isinstance(error, ClientDisconnected):
        return BadRequest("The client went away before the body was complete.")
    if isinstance(error, HTTPException):
        by_status = {404: NotFound, 405: NotAllowed, 406: NotAcceptable, 410: Gone}
        return by_status.get(error.code or 400, BadRequest)(error.description or error.name)
    if isinstance(error, IntegrityError):
        return Conflict("Another request changed the same objects at the same time; try again.")
    if isinstance(error, DataError):  # PostgreSQL holds no NUL in a text, and no number beyond its column
        return BadRequest("A value in the request is none that can be stored: a NUL character, or too large a number.")
    if isinstance(error, DBAPIError | PoolTimeout):
        return Unavailable("The database does not answer; try again.")
    return Problem("An unexpected error was logged under this request's id.")
