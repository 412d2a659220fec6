"""All SQL: tables, connections, and one module per noun."""
