"""`relay.websocket.close_codes`: RFC 6455 §7.4 and the IANA registry."""

from __future__ import annotations

import pytest

from relay.websocket import close_codes


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4401, 4999])
def test_codes_that_a_close_frame_may_carry(code: int) -> None:
    """The contract, section 6: 1000-1003, 1007-1014, 3000-4999."""
    assert close_codes.may_travel(code)


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_no_close_frame_may_carry(code: int) -> None:
    """1005, 1006 and 1015 are for reporting only (§7.4.1); the others belong to nobody (§7.4.2)."""
    assert not close_codes.may_travel(code)


@pytest.mark.parametrize("code", [None, *range(1000, 1004), *range(1007, 1015), 3000, 4401, 4999])
def test_stock_daphne_is_only_given_what_it_can_send(code: int | None) -> None:
    """Its autobahn raises for all but 1000 and 3000-4999."""
    sent = close_codes.for_stock_daphne(code)
    assert sent == 1000 or 3000 <= sent <= 4999


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        pytest.param(None, 1000, id="no code"),
        pytest.param(1000, 1000, id="normal"),
        pytest.param(1012, 4503, id="service restart"),
        pytest.param(1014, 4502, id="bad gateway"),
        pytest.param(4401, 4401, id="an application's own"),
    ],
)
def test_what_stock_daphne_sends_instead(code: int | None, sent: int) -> None:
    """An abnormal end never looks like a normal one: what can't be sent becomes 4000 plus the nearest HTTP status."""
    assert close_codes.for_stock_daphne(code) == sent
