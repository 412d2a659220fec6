"""The transaction that storage functions take first; other layers name it from here."""

from sqlalchemy.orm import Session

__all__ = ["Session"]
