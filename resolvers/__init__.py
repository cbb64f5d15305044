"""Resolvers: one function a field, loaders made for each operation."""
