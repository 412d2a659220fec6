"""The transaction that storage functions take first; other layers name it from here.

It is a connection of SQLAlchemy's Core: there are no mapped classes, and an ORM session around
each statement cost a quarter of the time of a report.
"""

from sqlalchemy import Connection as Session

__all__ = ["Session"]
