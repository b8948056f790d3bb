"""Carrying WebSockets: judged, dialled to the backend first, accepted second, then faithful to the byte.

The way of a socket::

    consumer  ->  upstream           ->  tunnel, legs              ->  journal
    who, where    opening, deflate       or messages, backend_side     the story of its life
                  the backend's yes      bytes, or ASGI's events

What the registry holds of it meanwhile is ``socket``; what it is held to, ``carrier.Terms``; when it is looked at,
``lifetime``. Pure, tested as tables: ``close_codes``, ``frames``, ``deflate``, ``opening``.
"""
