"""Crypto exchanges through CCXT."""
