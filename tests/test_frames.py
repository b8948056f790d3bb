"""`relay.websocket.frames`: framing is judged as RFC 6455 §5 says, in whatever pieces the bytes arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.protocol import OPEN, Protocol, Side

from relay.websocket import frames
from relay.websocket.frames import Close, Scanner, Violation
from tests import ws_helpers as ws
from tests.ws_helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

SIDES = pytest.mark.parametrize("masked", [pytest.param(True, id="client"), pytest.param(False, id="backend")])


def scan(stream: bytes, *, masked: bool = False, **options: int) -> tuple[bytes, Scanner]:
    """Feed a whole stream at once; return what passed and the scanner."""
    scanner = Scanner(masked=masked, **options)
    return scanner.feed(stream), scanner


# What passes


@SIDES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_messages_of_every_length_form_pass_unchanged(size: int, masked: bool) -> None:
    """§5.2: 7, 16 or 63 bits of length."""
    stream = ws.binary(b"x" * size, masked=masked) + ws.text(b"y" * size, masked=masked)
    passed, scanner = scan(stream, masked=masked)
    assert (passed, scanner.messages, scanner.payload_bytes, scanner.verdict) == (stream, 2, 2 * size, None)


@SIDES
def test_a_fragmented_message_is_one_message(masked: bool) -> None:
    """§5.4; control frames may come between fragments."""
    stream = (
        frame(TEXT, b"a", fin=False, masked=masked)
        + frame(PING, b"p", masked=masked)
        + frame(CONTINUATION, b"b" * 200, fin=False, masked=masked)
        + frame(PONG, masked=masked)
        + frame(CONTINUATION, b"", masked=masked)
    )
    passed, scanner = scan(stream, masked=masked)
    assert (passed, scanner.messages, scanner.frames, scanner.payload_bytes) == (stream, 1, 3, 201)


def test_what_all_may_pass_is_not_copied() -> None:
    """The tunnel's speed rests on it."""
    scanner = Scanner(masked=False)
    whole, big = ws.text(b"a") * 3, b"x" * 70_000
    assert scanner.feed(whole) is whole
    scanner.feed(ws.binary(big)[:10])
    assert scanner.feed(big[:50_000]) is not None
    rest = big[50_000:]
    assert scanner.feed(rest) is rest


def test_text_is_not_judged() -> None:
    """Whether text is UTF-8 (§8.1) is for the end points to say."""
    assert scan(ws.text(b"\xff\xfe"))[1].verdict is None


def test_a_header_is_held_until_it_is_complete() -> None:
    """What was passed on ends at a boundary as long as no payload has: a close could follow it."""
    scanner = Scanner(masked=True)
    stream = ws.binary(b"x" * 300, masked=True)
    assert [scanner.feed(stream[i : i + 1]) for i in range(7)] == [b""] * 7
    assert scanner.need == 0
    assert scanner.feed(stream[7:9]) == stream[:9]
    assert scanner.need == 299
    assert scanner.payload_bytes == 1


@SIDES
def test_a_control_frame_is_held_until_it_is_complete(masked: bool) -> None:
    """So that a control frame of ours never lands inside of it."""
    scanner = Scanner(masked=masked)
    ping = frame(PING, b"x" * 125, masked=masked)
    assert scanner.feed(ping[:-1]) == b""
    assert scanner.feed(ping[-1:]) == ping


# RSV1 and permessage-deflate


@pytest.mark.parametrize("deflate", [False, True])
def test_rsv1_needs_permessage_deflate(deflate: bool) -> None:
    """RFC 7692 §6: it marks the first frame of a compressed message."""
    stream = frame(TEXT, b"a", rsv=4) + frame(BINARY, b"a", rsv=4, fin=False) + frame(CONTINUATION, b"b")
    passed, scanner = scan(stream, deflate=deflate)
    assert (passed, scanner.messages) == ((stream, 2) if deflate else (b"", 0))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(frame(TEXT, b"a", rsv=2), id="RSV2"),
        pytest.param(frame(TEXT, b"a", rsv=1), id="RSV3"),
        pytest.param(frame(TEXT, b"a", rsv=6), id="RSV1 with RSV2"),
        pytest.param(frame(PING, rsv=4), id="RSV1 on a control frame"),
        pytest.param(frame(TEXT, fin=False) + frame(CONTINUATION, rsv=4), id="RSV1 on a continuation"),
    ],
)
def test_reserved_bits_that_no_extension_explains(wrong: bytes) -> None:
    """§5.2, and RFC 7692 §6.1 for RSV1."""
    verdict = scan(wrong, deflate=True)[1].verdict
    assert verdict == Violation(1002, "a reserved bit")


# Violations


@SIDES
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        pytest.param({"opcode": 0x3}, "the reserved opcode 0x3", id="reserved data opcode"),
        pytest.param({"opcode": 0xB}, "the reserved opcode 0xb", id="reserved control opcode"),
        pytest.param({"opcode": CONTINUATION}, "a continuation frame without a message", id="continuation of nothing"),
        pytest.param({"opcode": PING, "fin": False}, "a fragmented control frame", id="fragmented ping"),
        pytest.param({"opcode": CLOSE, "fin": False}, "a fragmented control frame", id="fragmented close"),
        pytest.param({"opcode": PING, "payload": b"x" * 126}, "a control frame of more than 125 bytes", id="long ping"),
        pytest.param({"opcode": CLOSE, "payload": b"x" * 70_000}, "a control frame of more than 125 bytes", id="huge"),
        pytest.param({"opcode": TEXT, "payload": b"a", "form": 126}, "a length that is not in", id="1 in 16 bits"),
        pytest.param({"opcode": TEXT, "payload": b"a" * 125, "form": 127}, "a length that is not in", id="in 64 bits"),
        pytest.param({"opcode": TEXT, "payload": b"a" * 65535, "form": 127}, "a length that is not in", id="65535"),
        pytest.param({"opcode": CLOSE, "payload": b"\x03"}, "half a close code", id="half a close code"),
        pytest.param({"opcode": CLOSE, "payload": b"\x03\xed"}, "the close code 1005", id="close code 1005"),
        pytest.param({"opcode": CLOSE, "payload": b"\x00\x00"}, "the close code 0", id="close code 0"),
    ],
)
def test_a_violation_stops_everything_after_it(wrong: dict[str, object], text: str, masked: bool) -> None:
    """§5.2, §5.4, §5.5: what came before passes, the wrong frame and what follows it don't."""
    good = ws.text("before", masked=masked)
    stream = good + frame(**wrong, masked=masked) + ws.text("after", masked=masked)  # type: ignore[arg-type]
    passed, scanner = scan(stream, masked=masked)
    assert passed == good
    assert isinstance(scanner.verdict, Violation)
    assert (scanner.verdict.code, scanner.verdict.text[: len(text)]) == (1002, text)
    assert scanner.feed(good) == b""


@SIDES
def test_the_wrong_masking_is_a_violation(masked: bool) -> None:
    """§5.1: a client masks every frame, a server none."""
    for wrong in (
        ws.text("x", masked=not masked),
        frame(PING, masked=not masked),
        ws.binary(b"x" * 999, masked=not masked),
    ):
        verdict = scan(wrong, masked=masked)[1].verdict
        assert isinstance(verdict, Violation)
        assert verdict.code == 1002


def test_a_length_of_64_bits_is_a_violation() -> None:
    """§5.2: the most significant bit must be 0."""
    verdict = scan(b"\x82\x7f" + (1 << 63).to_bytes(8, "big"))[1].verdict
    assert isinstance(verdict, Violation)
    assert verdict.code == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_inside_of_a_message_is_a_violation(opcode: int) -> None:
    """§5.4: fragments of one message are not interleaved with another's."""
    first = frame(TEXT, b"a", fin=False)
    passed, scanner = scan(first + frame(opcode, b"b"))
    assert (passed, scanner.verdict) == (first, Violation(1002, "a new message inside a fragmented one"))


def test_a_reason_that_is_not_utf8_is_invalid_data() -> None:
    """§5.5.1 with §8.1: 1007."""
    verdict = scan(frame(CLOSE, b"\x03\xe8\xff"))[1].verdict
    assert verdict == Violation(1007, "a close reason that is not UTF-8")


# Size and number of messages


@SIDES
@pytest.mark.parametrize("limit", [1, 100, 1000, 70_000])
def test_the_limit_is_for_the_whole_message(limit: int, masked: bool) -> None:
    """`max_message_size`, fragmented or not, is judged by headers, before a byte too many passes."""
    exact = ws.binary(b"x" * limit, masked=masked)
    parts = frame(BINARY, b"x" * (limit - 1), fin=False, masked=masked)
    passed, scanner = scan(exact + parts + frame(CONTINUATION, b"xx", masked=masked), masked=masked, max_message=limit)
    assert passed == exact + parts
    assert scanner.verdict == Violation(1009, f"a message of more than {limit} bytes")
    assert scan(ws.text(b"x" * (limit + 1), masked=masked)[:14], masked=masked, max_message=limit)[0] == b""


def test_endless_fragments_run_into_the_limit() -> None:
    """A message can't grow past the limit by never ending."""
    scanner = Scanner(masked=False, max_message=1000)
    scanner.feed(frame(TEXT, b"x" * 100, fin=False))
    passed = [scanner.feed(frame(CONTINUATION, b"x" * 100, fin=False)) for _ in range(20)]
    assert sum(map(bool, passed)) == 9
    assert isinstance(scanner.verdict, Violation)
    assert scanner.verdict.code == 1009


@pytest.mark.parametrize("message", [ws.text("x"), frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"y")])
def test_the_allowance_counts_messages(message: bytes) -> None:
    """`message_rate` counts messages, not frames; pings are free."""
    scanner = Scanner(masked=False)
    scanner.allowance = 3
    assert scanner.feed((frame(PING) + message) * 5) == (frame(PING) + message) * 3 + frame(PING)
    assert isinstance(scanner.verdict, Violation)
    assert scanner.verdict.code == 1008


# Close frames


@SIDES
@pytest.mark.parametrize(
    ("payload", "close"),
    [
        pytest.param(b"", Close(None), id="without a code"),
        pytest.param(b"\x03\xe8", Close(1000), id="code alone"),
        pytest.param(b"\x11\x31" + "tschüß".encode(), Close(4401, "tschüß"), id="code and reason"),
        pytest.param(b"\x03\xe9" + b"r" * 123, Close(1001, "r" * 123), id="the longest reason"),
    ],
)
def test_a_close_frame_passes_and_nothing_after_it(payload: bytes, close: Close, masked: bool) -> None:
    """§5.5.1: after a close frame a side sends nothing more."""
    closing = ws.text("last", masked=masked) + frame(CLOSE, payload, masked=masked)
    passed, scanner = scan(closing + ws.text("too late", masked=masked), masked=masked)
    assert (passed, scanner.verdict) == (closing, close)
    assert scanner.feed(ws.text("later still", masked=masked)) == b""


def test_a_close_frame_may_end_a_message_half_sent() -> None:
    """§5.4: control frames may come between fragments, this one too."""
    stream = frame(TEXT, b"half", fin=False) + ws.close(1001)
    passed, scanner = scan(stream)
    assert (passed, scanner.verdict) == (stream, Close(1001))


# Our own pings


@SIDES
def test_answers_to_our_pings_go_no_further(masked: bool) -> None:
    """The other side did not ask; pongs that answer its own pings, and unsolicited ones, pass (§5.5.3)."""
    scanner = Scanner(masked=masked)
    scanner.own_pong = b"ours-123"
    ours = frame(PONG, b"ours-123", masked=masked)
    others = frame(PONG, b"ours-124", masked=masked) + frame(PONG, masked=masked) + ws.text("ours-123", masked=masked)
    assert scanner.feed(ours) == b""
    assert scanner.feed(others[:1] + others[1:] + ours + others + ours) == others * 2
    assert scanner.feed(ours[:3]) + scanner.feed(ours[3:] + others) == others


@pytest.mark.parametrize("masked", [True, False])
def test_control_frames_that_we_write_are_read_back(masked: bool) -> None:
    """Masked toward the backend, not toward the client; a reason is cut between characters to 123 bytes."""
    for code, reason in ((None, ""), (1012, "service restart"), (4401, "ä" * 100)):
        passed, scanner = scan(frames.close_frame(code, reason, masked=masked), masked=masked)
        assert scanner.verdict == Close(code, reason[:61])
        assert passed
    assert scan(frames.ping_frame(b"12345678", masked=masked), masked=masked)[1].verdict is None


def test_masks_differ() -> None:
    """§5.3: the masking key can't be foreseen."""
    assert len({frames.close_frame(1000, masked=True) for _ in range(8)}) > 1


# Any stream, in any pieces


@dataclass(frozen=True)
class Sent:
    """A frame to send; a reader has at most one thing to complain about."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    wrong_mask: bool = False

    def bytes(self, masked: bool) -> bytes:
        return frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv, masked=masked ^ self.wrong_mask)


PAYLOADS = st.one_of(
    st.binary(max_size=20), st.integers(120, 130).map(bytes), st.sampled_from([999, 1000, 1001, 65536]).map(bytes)
)
CLOSES = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.one_of(st.integers(990, 1020), st.integers(2990, 3010), st.integers(4990, 5010)),
    st.one_of(st.text(max_size=10).map(str.encode), st.binary(max_size=4)),
)
DATA = st.builds(Sent, st.sampled_from([CONTINUATION, TEXT, BINARY]), PAYLOADS, st.booleans())
FRAMES = st.one_of(
    DATA,
    DATA,
    st.builds(Sent, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.builds(Sent, st.just(CLOSE), st.one_of(st.binary(max_size=2), CLOSES)),
    st.builds(Sent, st.sampled_from([0x3, 0x7, 0xB, 0xF]), st.binary(max_size=5)),
    st.builds(Sent, st.sampled_from([TEXT, PING]), st.just(b"x"), st.just(True), st.integers(1, 7)),
    st.builds(Sent, st.just(PING), st.binary(max_size=5), st.just(False)),
    st.builds(Sent, st.just(PING), st.integers(126, 200).map(bytes)),
    st.builds(Sent, st.just(TEXT), st.just(b"x"), st.just(True), st.just(0), st.just(True)),
)
LIMIT = 1000


def pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The stream, cut at these places (modulo its length)."""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(places)]


def outcome(stream: bytes, cuts: Sequence[int], masked: bool) -> tuple[object, ...]:
    """Everything that can be seen of a scanner when the stream comes in these pieces."""
    scanner = Scanner(masked=masked, max_message=LIMIT)
    scanner.own_pong = b"p"
    passed = b"".join(scanner.feed(piece) for piece in pieces(stream, cuts))
    return passed, scanner.verdict, scanner.messages, scanner.payload_bytes, scanner.need


@settings(deadline=None)  # a busy machine is no failure
@given(sent=st.lists(FRAMES, max_size=8), cuts=st.lists(st.integers(0, 10**6), max_size=20), masked=st.booleans())
def test_cuts_change_nothing(sent: list[Sent], cuts: list[int], masked: bool) -> None:
    """TCP has no messages: what passes and what is said about it depends on the bytes alone."""
    stream = b"".join(f.bytes(masked) for f in sent)
    assert outcome(stream, cuts, masked) == outcome(stream, [], masked)


@settings(deadline=None)  # a busy machine is no failure
@given(
    sent=st.lists(FRAMES, min_size=1, max_size=5),
    wrong=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4),
    cuts=st.lists(st.integers(0, 10**6), max_size=20),
    masked=st.booleans(),
)
def test_cuts_change_nothing_about_garbage(
    sent: list[Sent], wrong: list[tuple[int, int]], cuts: list[int], masked: bool
) -> None:
    """The same for streams with flipped bits; and no garbage makes the scanner raise."""
    stream = bytearray(b"".join(f.bytes(masked) for f in sent))
    for place, bits in wrong:
        stream[place % len(stream)] ^= bits
    assert outcome(bytes(stream), cuts, masked) == outcome(bytes(stream), [], masked)


def websockets_verdict(stream: bytes, masked: bool) -> int | tuple[int, str] | None:
    """What websockets makes of it: the code of a violation, a close frame's code and reason, or None."""
    peer = Protocol(Side.SERVER if masked else Side.CLIENT, state=OPEN, max_size=None)
    peer.receive_data(stream)
    if peer.close_rcvd is not None:
        # It does not allow a close frame inside of a fragmented message; §5.4 does.
        return peer.close_rcvd.code, peer.close_rcvd.reason
    if isinstance(peer.parser_exc, UnicodeDecodeError):
        return 1007
    return 1002 if isinstance(peer.parser_exc, ProtocolError) else None


@settings(deadline=None)  # a busy machine is no failure
@given(sent=st.lists(FRAMES, max_size=8), masked=st.booleans())
def test_the_scanner_agrees_with_websockets(sent: list[Sent], masked: bool) -> None:
    """Another implementation of the same RFC accepts and rejects the same streams, with the same codes."""
    stream = b"".join(f.bytes(masked) for f in sent)
    _, scanner = scan(stream, masked=masked)
    verdict = scanner.verdict
    ours = (verdict.code or 1005, verdict.reason) if isinstance(verdict, Close) else verdict and verdict.code
    assert ours == websockets_verdict(stream, masked)
