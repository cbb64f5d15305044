"""Live series: the feeds that follow upstreams, and the hub that serves subscribers."""
