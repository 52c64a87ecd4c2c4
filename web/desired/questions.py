"""What users ask of a guest once, beside its console: figures, a new password. Pure; what is answered is left out."""

from __future__ import annotations

ADMIN_USERS = {"windows": "Administrator"}  # by the image property os_type; root elsewise


def choose_admin_user(properties: dict) -> str:
    """Whose password a change is of, by the properties of the image."""
    named = str(properties.get("os_admin_user") or "").strip()
    return named or ADMIN_USERS.get(str(properties.get("os_type") or "").strip().lower(), "root")


def build_questions(server) -> dict:
    """``diagnostics`` and ``password`` of the document's server."""
    found: dict = {}
    if (server.diagnostics_wanted or 0) > (server.observed_diagnostics_done or 0):
        found["diagnostics"] = {"wanted": server.diagnostics_wanted}
    if (server.password_wanted or 0) > (server.observed_password_done or 0) and server.password_secret is not None:
        user = choose_admin_user(server.image_properties or {})
        found["password"] = {"wanted": server.password_wanted, "user": user, "password": server.password_secret}
    return found
