# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end of the control socket, synchronous and without Twisted, so that the tool starts fast."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from ddtb6.web.verbs import ControlError, Kind

TIMEOUT = 60.0
"""Seconds to wait for an answer; disconnecting a user waits for the data plane and the disk."""


class NotRunning(Exception):
    """Nobody listens on the control socket."""


class NotPermitted(Exception):
    """The control socket is there, but not for us."""


class ControlClient:
    """Calls verbs of the running daemon."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._timeout = timeout

    def call(self, verb: str, **arguments: object) -> Any:
        """The verb's answer. Raises ControlError, NotRunning, NotPermitted."""
        connection = _UnixConnection(self.path, self._timeout)
        try:
            connection.request(
                "POST", f"/v1/{verb}", json.dumps(arguments).encode(), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            value = json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"nobody listens on {self.path}") from None
        except PermissionError:
            raise NotPermitted(
                f"{self.path} is not yours to use; try as root, or join the group it belongs to"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ControlError(
                f"no sensible answer from {self.path}: {error or type(error).__name__}", Kind.FAILED
            ) from None
        finally:
            connection.close()
        if response.status == 200:
            return value
        if isinstance(value, dict) and value.get("kind") in {kind.value for kind in Kind}:
            raise ControlError(str(value.get("error")), Kind(value["kind"]))
        raise ControlError(f"{self.path} answered with status {response.status}; is that ddtb6?", Kind.FAILED)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("ddtb6", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
