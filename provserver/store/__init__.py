"""Postgres: the connection, the schema, and the SQL, a module for each noun."""
