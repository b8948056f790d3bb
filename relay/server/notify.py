"""Notify systemd about a service with ``Type=notify``: sd_notify(3), a datagram to the socket that it names."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger("relay.server")

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(state: str) -> None:
    """Send a state to systemd, if it asked for that; failing to do so does not stop the server."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # of Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.setblocking(False)
            told.sendto(state.encode(), address)
    except OSError as exc:
        logger.warning("NOTIFY_SOCKET: %s could not be sent: %s", state, exc.strerror or exc)
