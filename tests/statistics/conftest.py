"""The service over a database of the test, as in tests/service."""

from tests.service.conftest import service as service
from tests.service.conftest import sqlite_database as sqlite_database
from tests.service.conftest import warm_sqlite as warm_sqlite
