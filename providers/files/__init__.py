"""A folder of tables as a provider: read, watched for changes, and served as one version of each file."""
