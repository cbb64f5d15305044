"""Accounts: passwords, tokens, revocation, administration and saved configurations."""
