"""Servers without a database: `python -m benchmarks.servers.NAME`; each prints its port once it is up."""
