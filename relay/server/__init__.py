"""server: Daphne, completed to what ASGI promises. A generic ASGI 3 server that knows nothing of routes or models.

Daphne's command line, endpoints and Twisted reactor stay (``cli``, ``server``, ``loop``); the sockets are asyncio's, on
the reactor's own loop, so that uvloop carries them::

    bytes ─► http_protocol ─► head ─► exchange ─► application          HTTP/1.1 and 1.0
                  │           body    response
                  └─► ws_protocol ─► handshake ─► application          WebSocket
                           ├── messages    as ASGI events
                           └── a tunnel    the application takes the transport over

Pure, tested as tables (no await, no I/O): ``head``, ``body``, ``response``, ``handshake``, ``messages``. What the
connections of one process share is `relay.server.host.Host`: the application, the limits, the drain.

Extensions beyond ASGI 3, in ``scope["extensions"]``:

``relay.cancel``
    The application's task is cancelled when the client goes away (for a handshake: until it is answered), so it need
    not listen on ``receive``.
``relay.empty_query``
    The request target ended with a question mark: ``query_string`` is empty with and without one.
``relay.tunnel`` (websocket)
    After ``websocket.accept``, ``{"type": "relay.tunnel", "attach": attach}`` hands the client's connection over. The
    server calls ``attach(transport, leftover)``, which takes over the asyncio transport (``set_protocol``) and the
    bytes that followed the handshake, and returns a future that is done when both ends are closed. If the client has
    already gone, ``attach`` is not called.
"""
