"""Relay WebSockets: judge, dial the backend, then accept the client and pass every byte on faithfully.

The stages of a socket::

    consumer  ->  upstream           ->  tunnel, legs              ->  journal
    who, where    opening, deflate       or messages, backend_side     log and metrics
                  the backend accepts    bytes, or ASGI events

The registry holds a ``socket``; its limits are ``carrier.Terms``; ``lifetime`` checks the time limits. Pure, tested as
tables: ``close_codes``, ``frames``, ``deflate``, ``opening``.
"""
