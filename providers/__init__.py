"""One upstream, one file."""
