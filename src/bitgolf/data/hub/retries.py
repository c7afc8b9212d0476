"""Repeated requests: which failures are transient, and how long to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from bitgolf.errors import BitgolfError
from bitgolf.report.log import RunLog

_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_PERMANENT_ERRORS = ("TooManyRedirects", "UnsupportedProtocol", "LocalProtocolError", "DecodingError")
"""Errors of the HTTP client by name: which client `huggingface_hub` uses depends on its version."""


class InterruptedTransfer(Exception):
    """The connection ended before the body was complete."""


class Retries:
    """Waits between attempts at one request or transfer, and counts them.

    limit: number of repetitions without any progress. longest: a server that asks for a longer wait, in seconds, is
    an error. wait: sleeps for a number of seconds. Waits are 1, 2, 4, ... s, or what the server asks for.
    """

    def __init__(
        self, log: RunLog, wait: Callable[[float], object] = time.sleep, *, limit: int = 5, longest: float = 600.0
    ) -> None:
        self.log, self.wait, self.limit, self.longest = log, wait, limit, longest
        self.failures = 0

    def progressed(self) -> None:
        """Note that data arrived: the next failure is the first one again."""
        self.failures = 0

    def after(self, error: Exception, where: str) -> None:
        """Wait before the next attempt. Raises `BitgolfError` if the limit is reached or the wait would be too long."""
        reason, asked = describe_failure(error), requested_wait(response_headers(error))
        self.failures += 1
        hint = "run the same command again later: it continues where it stopped"
        hint = hint if status_of(error) else f"check the network, and HF_ENDPOINT if it is set; {hint}"
        if self.failures > self.limit:
            raise BitgolfError(f"{reason}; gave up after {self.limit} repetitions", where=where, hint=hint) from error
        if asked is not None and asked > self.longest:
            raise BitgolfError(f"{reason}; the server asks to wait {asked:.0f} s", where=where, hint=hint) from error
        seconds = 2.0 ** (self.failures - 1) if asked is None else asked
        self.log.info(f"{where}: {reason}; repetition {self.failures} of {self.limit} in {seconds:.0f} s")
        self.wait(seconds)


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that an error reports, None if no response arrived."""
    return getattr(getattr(error, "response", None), "status_code", None)


def response_headers(error: Exception) -> Mapping[str, str]:
    """Return the headers of the response that an error reports, with names as they arrived."""
    return getattr(getattr(error, "response", None), "headers", {})


def is_transient(error: Exception) -> bool:
    """Whether a failed request or transfer may succeed if it is repeated."""
    status = status_of(error)
    return type(error).__name__ not in _PERMANENT_ERRORS if status is None else status in _TRANSIENT_STATUS


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, None if it does not say.

    Sources: the header Retry-After, a number of seconds or a date (RFC 9110, 10.2.3), or the hub's header RateLimit,
    whose t is the number of seconds until the limit is reset.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    after = lower.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", after):
        return float(after)
    if after:
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
        except (ValueError, OverflowError):
            pass  # neither a number nor a date
    reset = re.search(r"\br *= *0 *; *t *= *([0-9]{1,9})\b", lower.get("ratelimit", ""))
    return float(reset[1]) if reset else None


def describe_failure(error: Exception) -> str:
    """Return one line about a failed request: the HTTP status with its name, or the message of the HTTP client."""
    status = status_of(error)
    if status is None:
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return f"the connection failed ({text})"
    try:
        return f"the server answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the server answered {status}"
