"""The conformance rules, one family a file."""
