"""Reaching a backend: which of its urls, by which address, over TCP or TLS, and the exact cause when none answers.

`connector.Connector` is the door; HTTP and WebSocket both go through it. ``balance`` and ``causes`` are pure.
"""
