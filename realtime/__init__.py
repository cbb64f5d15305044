"""What is moving: feeds and the hub."""
