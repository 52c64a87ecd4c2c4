"""The one error of the host side: a sentence a person can act on."""


class KumoError(Exception):
    """Something a host could not do, in words that are stored as the object's fault.

    The text names the object and the cause, and holds no secret.
    """
