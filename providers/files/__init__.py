"""A folder of tables as a provider: it reads the files, notices changes, and serves one version of each file."""
