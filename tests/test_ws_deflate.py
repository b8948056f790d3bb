"""`relay.websocket.deflate`: which offers go to the backend, and which of its answers may come back (RFC 7692 §7.1)."""

from __future__ import annotations

import pytest

from relay.websocket.deflate import answers, offers

PLAIN = b"permessage-deflate"
BROWSER = b"permessage-deflate; client_max_window_bits"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        pytest.param([BROWSER], [BROWSER], id="what browsers send"),
        pytest.param([b"permessage-deflate;server_max_window_bits=10"], 1, id="without spaces"),
        pytest.param([b'permessage-deflate; server_max_window_bits="10"'], 1, id="a quoted value"),
        pytest.param([BROWSER + b", " + PLAIN], [BROWSER, PLAIN], id="two offers, the client's order"),
        pytest.param([BROWSER, PLAIN], [BROWSER, PLAIN], id="two fields"),
        pytest.param([b"x-webkit-deflate-frame, " + PLAIN], [PLAIN], id="other extensions go"),
        pytest.param([b"permessage-bzip2"], [], id="nothing that is known"),
        pytest.param([b"permessage-deflate; unknown"], [], id="unknown parameter"),
        pytest.param([b"permessage-deflate; server_max_window_bits"], [], id="a value that is missing"),
        pytest.param([b"permessage-deflate; server_max_window_bits=16"], [], id="bits out of range"),
        pytest.param([b"permessage-deflate; server_max_window_bits=08"], [], id="a leading zero"),
        pytest.param([b"permessage-deflate; server_no_context_takeover=1"], [], id="a value that is too much"),
        pytest.param([BROWSER + b"; client_max_window_bits"], [], id="a parameter twice"),
        pytest.param([b"permessage-deflate; =1"], [], id="malformed"),
        pytest.param([b""], [], id="empty"),
        pytest.param([], [], id="none"),
    ],
)
def test_valid_offers_are_kept_as_they_are(fields: list[bytes], kept: list[bytes] | int) -> None:
    """A server declines an invalid offer: so it needn't go there."""
    found = [offer.text for offer in offers(fields)]
    assert len(found) == kept if isinstance(kept, int) else found == kept


@pytest.mark.parametrize(
    ("offered", "answer", "allowed"),
    [
        pytest.param(BROWSER, PLAIN, True, id="a bare yes"),
        pytest.param(BROWSER, b"permessage-deflate; client_max_window_bits=12", True, id="fewer client bits"),
        pytest.param(BROWSER, b"permessage-deflate; server_max_window_bits=9", True, id="fewer server bits, unasked"),
        pytest.param(BROWSER, b"permessage-deflate; server_no_context_takeover", True, id="no takeover, unasked"),
        pytest.param(BROWSER, b"permessage-deflate; client_no_context_takeover", True, id="no takeover for the client"),
        pytest.param(PLAIN, b"permessage-deflate; client_max_window_bits=12", False, id="client bits, not offered"),
        pytest.param(BROWSER, BROWSER, False, id="client bits without a value"),
        pytest.param(PLAIN + b"; server_no_context_takeover", PLAIN, False, id="takeover, though forbidden"),
        pytest.param(PLAIN + b"; server_max_window_bits=10", PLAIN, False, id="no bits, though limited"),
        pytest.param(
            PLAIN + b"; server_max_window_bits=10", PLAIN + b"; server_max_window_bits=11", False, id="more bits"
        ),
        pytest.param(
            PLAIN + b"; server_max_window_bits=10", PLAIN + b"; server_max_window_bits=10", True, id="as many bits"
        ),
        pytest.param(
            PLAIN + b"; client_max_window_bits=10", PLAIN + b"; client_max_window_bits=11", False, id="more client bits"
        ),
        pytest.param(PLAIN + b"; server_max_window_bits=10, " + PLAIN, PLAIN, True, id="the second offer"),
        pytest.param(BROWSER, b"permessage-deflate, permessage-deflate", False, id="twice"),
        pytest.param(BROWSER, b"x-webkit-deflate-frame", False, id="another extension"),
        pytest.param(BROWSER, b"permessage-deflate; unknown=1", False, id="unknown parameter"),
        pytest.param(b"", PLAIN, False, id="nothing offered"),
    ],
)
def test_an_answer_must_fit_an_offer(offered: bytes, answer: bytes, allowed: bool) -> None:
    """The table of RFC 7692 §7.1.1 and §7.1.2."""
    assert answers(answer, offers([offered])) is allowed
