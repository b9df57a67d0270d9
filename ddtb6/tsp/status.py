# SPDX-License-Identifier: GPL-2.0-or-later
"""Status codes of TSP, and one exception class for each code a broker answers with.

Source: RFC 5572 appendix B; 509, 518, 520 and 522 are known to gogoCLIENT and gw6c only. Each class docstring is what
an operator reads about the code. The text after the number is free on the wire; clients log it.
Not here: who raises them and when (`negotiation`, and `broker.refusals` for refusals of the domain).
"""

from __future__ import annotations

from typing import ClassVar

SUCCESS = "200 Success"
"""Literally this: one client (tsp-ruby) compares the whole line."""


class TspError(Exception):
    """A refusal that has a status code. Abstract: raise a subclass."""

    code: ClassVar[int] = 0
    text: ClassVar[str] = ""
    temporary: ClassVar[bool] = False
    """True where the client may try the same again later."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.text)
        self.detail = detail

    @property
    def line(self) -> str:
        """The status line without line end, such as ``301 No more tunnels available``."""
        return f"{self.code} {self.detail or self.text}"


class AuthenticationFailed(TspError):
    """The user name, password or mechanism was not accepted. Check the account with ``ddtb6 user show``."""

    code = 300
    text = "Authentication failed"


class NoMoreTunnels(TspError):
    """A pool has no free address or prefix. Enlarge it, or release leases (``ddtb6 lease list``)."""

    code = 301
    text = "No more tunnels available"


class UnsupportedVersion(TspError):
    """The client speaks a version of TSP other than 2.0.x; it will try a lower one by itself."""

    code = 302
    text = "Unsupported client version"


class UnsupportedTunnelType(TspError):
    """The tunnel type asked for cannot be carried over this path (for example v6udpv4 asked over TCP)."""

    code = 303
    text = "Unsupported tunnel type"


class ServerError(TspError):
    """Something failed inside the broker; the log has the reason, the wire never has it."""

    code = 310
    text = "Server side error"


class InvalidRequest(TspError):
    """The message was not understood: framing, XML or order."""

    code = 500
    text = "Invalid request"


class InvalidIPv4Address(TspError):
    """The client gave an IPv4 address that is none, or that it may not use."""

    code = 501
    text = "Invalid IPv4 address"


class InvalidIPv6Address(TspError):
    """The client gave an IPv6 address that is none, or that it may not use."""

    code = 502
    text = "Invalid IPv6 address"


class AddressInUse(TspError):
    """The address belongs to another tunnel."""

    code = 506
    text = "Address already used by another tunnel"


class PrefixLengthUnavailable(TspError):
    """No pool delegates prefixes of the length asked for. Add a pool of that length, or tell the user which exist."""

    code = 507
    text = "Requested prefix length cannot be assigned"


class DelegationFailed(TspError):
    """The reverse zone of the prefix could not be delegated."""

    code = 509
    text = "DNS delegation error"


class PrefixLengthUnsupported(TspError):
    """The prefix length is not one that a broker delegates."""

    code = 518
    text = "Unsupported prefix length"


class PrefixLengthMissing(TspError):
    """A prefix was asked for without saying how long."""

    code = 520
    text = "Prefix length missing"


class RequestInProgress(TspError):
    """The previous request of this client is still being worked on."""

    code = 521
    text = "Request already in progress"
    temporary = True


class PrefixForAnonymous(TspError):
    """Anonymous clients get an address and no prefix; they must log in for one."""

    code = 522
    text = "No prefix for anonymous clients"


class ServerBusy(TspError):
    """Admission limits, or an authentication server that does not answer; the client comes back by itself."""

    code = 530
    text = "Server too busy"
    temporary = True


class NegotiationTimedOut(TspError):
    """The client took too long between two messages."""

    code = 599
    text = "Negotiation timed out"


BY_CODE: dict[int, type[TspError]] = {cls.code: cls for cls in TspError.__subclasses__()}
"""Status code to class, for the client role."""
