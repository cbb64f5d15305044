"""Upgrades of a database: numbered migrations, checks of the server, and checks of stored data after a migration."""
