"""Connecting to a backend: by which url and address, over TCP or TLS, and the exact cause if none answers.

`connector.Connector` is the entry point, for HTTP and WebSocket alike. ``balance`` and ``causes`` are pure.
"""
