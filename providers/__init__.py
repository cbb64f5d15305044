"""One upstream, one file or folder."""
