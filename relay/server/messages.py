"""Turn a WebSocket's bytes into ASGI messages and back (RFC 6455 §5 to §7), by websockets' sans-I/O protocol. No I/O.

Only for applications that use messages; a tunnel passes frames on and does not use this.
"""

from __future__ import annotations

from websockets.frames import BINARY, CLOSE, CONT, TEXT, CloseCode, Opcode
from websockets.protocol import SERVER, Protocol, State

from relay.typing import Message

VANISHED = int(CloseCode.ABNORMAL_CLOSURE)


def disconnect(code: int = VANISHED, reason: str = "") -> Message:
    """ASGI's last event. Without a close frame from the client, the code is 1006 (RFC 6455 §7.1.5)."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Messages:
    """One connection's framing.

    Attributes:
        ended: No more messages will come: the client has sent a close frame, or was sent one.
        failed: The client broke the protocol, and the close frame for that is in `outgoing`.
    """

    __slots__ = ("_opcode", "_parts", "_protocol", "ended", "failed")

    def __init__(self, message_size: int, frame_size: int) -> None:
        self._protocol = Protocol(SERVER, max_size=(message_size or None, frame_size or None))
        self._opcode: Opcode = TEXT
        self._parts: list[bytes] = []
        self.ended = self.failed = False

    @property
    def closing(self) -> bool:
        """Whether a close frame has been sent, which nothing can follow."""
        return self._protocol.state is not State.OPEN

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes from the client; return ``websocket.receive`` events, and ``websocket.disconnect`` as the last."""
        if self.ended:
            return []
        self._protocol.receive_data(data)
        events: list[Message] = []
        for frame in self._protocol.events_received():
            opcode = frame.opcode  # type: ignore[union-attr]  # only handshakes give other events
            if opcode is CLOSE:
                break
            if opcode in (TEXT, BINARY):
                self._opcode = opcode
            elif opcode is not CONT:
                continue
            self._parts.append(bytes(frame.data))  # type: ignore[union-attr]
            if frame.fin:  # type: ignore[union-attr]
                try:
                    events.append(self._message())
                except UnicodeDecodeError:
                    self._protocol.fail(CloseCode.INVALID_DATA, "text that is not UTF-8")
                    break
        if self._protocol.state is not State.OPEN and self._protocol.eof_sent:
            events.append(self._end())
        return events

    def _message(self) -> Message:
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._opcode is TEXT:
            return {"type": "websocket.receive", "text": payload.decode()}
        return {"type": "websocket.receive", "bytes": payload}

    def _end(self) -> Message:
        self.ended = True
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        self.failed = self._protocol.parser_exc is not None or received is None
        if received is not None:
            return disconnect(int(received.code), received.reason)
        return disconnect(VANISHED, sent.reason if sent is not None else "")

    def send(self, message: Message) -> None:
        """Take ``websocket.send``; empty messages are sent as well."""
        payload = message.get("bytes")
        if payload is not None:
            self._protocol.send_binary(payload)
        else:
            self._protocol.send_text(message["text"].encode())

    def close(self, code: int, reason: str) -> None:
        """Send a close frame.

        Raises:
            websockets.exceptions.ProtocolError: The code or the reason can't be in a close frame.
        """
        self._protocol.send_close(code, reason)

    def ping(self) -> None:
        self._protocol.send_ping(b"")

    def outgoing(self) -> list[bytes]:
        """Frames to write now."""
        return [data for data in self._protocol.data_to_send() if data]
