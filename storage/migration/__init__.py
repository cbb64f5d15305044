"""Bringing a database up to date: numbered migrations, what a server must offer, and steps that follow a migration."""
