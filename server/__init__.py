"""The server: settings, wiring, the command line and the transports."""
