"""relay: carries authenticated HTTP and WebSocket traffic to services that have no login of their own.

The stages of a request::

    server  ->  entry        ->  identity  ->  access     ->  forwarding     ->  http | websocket  ->  backends
                which request,   who is it?    allowed?       what crosses?      carry it              reach it
                from where?                    where to?

Pure, tested as tables (no await, no log, no ORM): ``refusals``, ``routing.snapshot``, ``routing.paths``, ``access``,
``forwarding``, ``websocket.close_codes``, ``websocket.frames``. Imports follow the same direction; ``runtime``
assembles one process.
"""

__version__ = "0.1.0"
