"""What is moving: who follows the upstreams, and who tells the listeners."""
