"""relay: carries authenticated HTTP and WebSocket traffic to services that have no login of their own.

The way of a request, one room after the other::

    server  ->  entry        ->  identity  ->  access     ->  forwarding     ->  http | websocket  ->  backends
                which request,   who is it?    may they,      what crosses?      carry it              reach it
                from where?                    and where?

Pure, tested as tables (no await, no log, no ORM): ``refusals``, ``routing.snapshot``, ``routing.paths``, ``access``,
``forwarding``, ``websocket.close_codes``, ``websocket.frames``. Imports point down the same way; ``runtime`` puts one
process together.
"""

__version__ = "0.1.0"
