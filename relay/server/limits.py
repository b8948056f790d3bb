"""Limits on the time and memory that a client may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds, checked every `sweep`; sizes in bytes. 0 turns a limit off where noted.

    Attributes:
        head_size: Request line and fields together; then 431 (RFC 6585 §5). nginx allows 32 KiB, Node 16 KiB.
        head_fields: Number of fields; then 431.
        head_time: From the first byte of a head to its last; then 408. Stops slow-loris clients.
        idle_time: A connection without a request; nginx's ``keepalive_timeout``.
        body_time: No byte of the body while the application waits for one; then 408.
        write_time: No byte read by the client while data waits for it; nginx's ``send_timeout``.
        linger_time: Reading after a response that ended before its request did (RFC 9112 §9.6).
        leave_time: A client that closed its sending side still gets a response that is ready within this time.
        buffer: Request body or messages waiting for the application, and response data waiting for the client: beyond
            that, the other side has to wait. One read (256 KiB) or one event of the application may exceed it.
        chunk_overhead: Chunk extensions and trailers of one request together.
        request_time: From a request's head to the start of its response; then 504. 0: none (``--http-timeout``).
        accept_time: From a handshake to its answer; then 504. 0: none (``--websocket_connect_timeout``).
        socket_time: Age of a WebSocket relayed as messages; then 1001. 0: none (``--websocket_timeout``).
        message_size: Of one WebSocket message; then 1009. 0: none (``--websocket-max-message-size``).
        frame_size: Of one of its frames. 0: none (``--websocket-max-frame-size``).
        ping_interval: Silence of a WebSocket relayed as messages before it is pinged. 0: never.
        ping_timeout: No byte after a ping: the client has vanished.
        close_time: For the client's answer to our close frame.
        application_close_time: For an application to end after its WebSocket has; then it is cancelled.
        sweep: Between checks of the times above.
    """

    head_size: int = 65_536
    head_fields: int = 200
    head_time: float = 10
    idle_time: float = 75
    body_time: float = 60
    write_time: float = 60
    linger_time: float = 2
    leave_time: float = 0.5
    buffer: int = 65_536
    chunk_overhead: int = 16_384
    request_time: float = 0
    accept_time: float = 0
    socket_time: float = 0
    message_size: int = 0
    frame_size: int = 0
    ping_interval: float = 20
    ping_timeout: float = 30
    close_time: float = 5
    application_close_time: float = 10
    sweep: float = 1
