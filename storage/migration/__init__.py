"""Upgrades of a database: numbered migrations, requirements of the server, and steps that follow a migration."""
