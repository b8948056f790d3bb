"""The issuer's published keys: fetched in the background, and kept until newer ones are available.

A token never makes a request wait longer than `PATIENCE`, and no number of tokens causes more than one fetch per
`COOLDOWN`: sending made-up key ids can't turn the gateway against the issuer.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from relay.identity.keys import Key, published

if TYPE_CHECKING:
    from relay.settings import RelaySettings

REFRESH = 300.0  # s after a successful fetch, before the next
COOLDOWN = 10.0  # s after the start of a fetch, before an unknown key or a failure may start another
TIMEOUT = 5.0  # s for a fetch
PATIENCE = 2.0  # s that a request waits for a fetch
LARGEST = 1 << 20  # bytes of the document

log = logging.getLogger("relay.identity")


class Jwks:
    """The keys at ``JWT_JWKS_URL``. For the event loop's thread only; just the fetch itself runs in another.

    There is nothing to start: the first request that needs a key starts the first fetch. When another is due, the next
    request, or the process's own timer, starts it without waiting for it.

    Args:
        changed: Called when the set of keys has changed.
        clock: Monotonic seconds.

    Attributes:
        keys: As last fetched; empty before the first fetch.
        error: Why the last fetch failed, worded for a public page; empty if it succeeded.
    """

    def __init__(
        self,
        settings: RelaySettings,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys: tuple[Key, ...] = ()
        self.error = self._cause = ""
        self._settings, self._changed, self._clock = settings, changed, clock
        self._document: Any = None
        self._due = self._not_before = -float("inf")
        self._fetched_at = 0.0
        self._fetching: asyncio.Task[None] | None = None

    @property
    def warning(self) -> str:
        """Which keys are in force, if the last fetch failed; otherwise empty."""
        if not self.error:
            return ""
        age = f"keys are {self._clock() - self._fetched_at:.0f} s old" if self.keys else "no keys yet"
        return f"{age}: {self.error}"

    def refresh_if_due(self) -> None:
        """Start a fetch if one is due; does not wait."""
        if self._clock() >= self._due:
            self._begin()

    async def newer(self) -> None:
        """Wait for newer keys: for the fetch in flight or, if allowed, for a new one."""
        fetching = self._begin()
        if fetching is not None:
            await asyncio.wait([fetching], timeout=PATIENCE)

    def load(self) -> None:
        """Fetch now, in this thread; for commands.

        Raises:
            OSError: The document can't be fetched.
            ValueError: The document has no usable keys.
        """
        self._accept(fetch(self._settings.jwt_jwks_url))

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching
            self._fetching = None

    def _begin(self) -> asyncio.Task[None] | None:
        if self._fetching is None:
            if self._clock() < self._not_before:
                return None
            self._due = self._not_before = self._clock() + COOLDOWN
            self._fetching = asyncio.create_task(self._refresh(), name="jwks")
        return self._fetching

    async def _refresh(self) -> None:
        try:
            self._accept(await asyncio.to_thread(fetch, self._settings.jwt_jwks_url))
            self._due = self._clock() + REFRESH
        except OSError as exc:
            self._failed("JWT_JWKS_URL can't be reached", exc)
        except ValueError as exc:
            self._failed(f"JWT_JWKS_URL: {exc}", exc)
        finally:
            self._fetching = None

    def _failed(self, error: str, exc: Exception) -> None:
        """Keep the current keys, and log each cause once."""
        cause = str(exc) or type(exc).__name__
        if cause != self._cause:
            log.warning("auth.jwks: %s: %s; %d keys stay in force", self._url_shown, cause, len(self.keys))
        self.error, self._cause = error, cause

    @property
    def _url_shown(self) -> str:
        """The URL without its query, which may hold a secret of ours."""
        return urlsplit(self._settings.jwt_jwks_url)._replace(query="").geturl()

    def _accept(self, document: Any) -> None:
        if document != self._document or not self.keys:
            self.keys = published(document, self._settings)
            self._document = document
            self._changed()
        if self.error:
            log.info("auth.jwks: %s: fetched again; %d keys are in force", self._url_shown, len(self.keys))
        self.error = self._cause = ""
        self._fetched_at = self._clock()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within HTTP, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and scheme != req.type:
            fp.close()
            raise ValueError(f"redirected from {req.type} to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, timeout: float = TIMEOUT) -> Any:
    """The JSON document at an http or https url, without the environment's proxies.

    Raises:
        OSError: No complete answer came within the time limit.
        ValueError: The answer is an error, too large, not JSON, or a redirect that is not followed; the message
            contains no address.
    """
    opener = urllib.request.OpenerDirector()  # bare: no file, ftp or data urls, and no proxies
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    deadline = time.monotonic() + timeout
    body = bytearray()
    try:
        request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 (the opener knows http and https only)
        with opener.open(request, timeout=timeout) as response:
            while chunk := response.read1(1 << 16):
                body += chunk
                if len(body) > LARGEST:
                    raise ValueError(f"the answer is larger than {LARGEST} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no complete answer within {timeout:g} s")
            if response.length:
                raise OSError(f"the answer was cut off, {response.length} bytes before its end")
        return json.loads(body)
    except urllib.error.HTTPError as exc:
        exc.close()
        raise ValueError(f"the answer is {exc.code}") from exc
    except http.client.HTTPException as exc:
        raise OSError(f"the answer is not HTTP: {exc!r}") from exc
    except RecursionError as exc:
        raise ValueError("the answer is nested too deeply") from exc
