# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: ``POST /v1/VERB`` with a JSON object, answered in JSON, by HTTP over a unix socket.

The mode of the socket file is the permission. `curl --unix-socket PATH -d '{}' http://ddtb6/v1/overview` works too.
An error is ``{"error": SENTENCE, "kind": KIND}`` with an HTTP status to match.
Not here: the verbs (`web.control`).
"""

from __future__ import annotations

import contextlib
import json
import pwd
import socket
import struct
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, server

from ddtb6.web.control import VERBS, Control
from ddtb6.web.http import BoundedRequest, answer_json, make_site
from ddtb6.web.verbs import SECRETS, STATUS, Actor, ControlError, Kind

log = Logger()


async def listen(site: server.Site, path: Path, reactor: Any) -> IListeningPort:
    """Serve `site` on the unix socket `path`, readable and writable by owner and group.

    A socket file that a killed daemon left behind is replaced. Raises twisted's CannotListenError where a live daemon
    answers on it, OSError where the directory cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(FileNotFoundError):
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:
            pass  # a live daemon with a full queue
    port: IListeningPort = await UNIXServerEndpoint(reactor, str(path), mode=0o660).listen(site)
    return port


def make_control_site(control: Control, reactor: Any) -> server.Site:
    """The site for `listen`."""
    root: Any = _Nothing()
    root.putChild(b"v1", _Verbs(control))
    return make_site(root, reactor)


class _Nothing(resource.Resource):
    def getChild(self, path: bytes, request: server.Request) -> resource.Resource:
        return self

    def render(self, request: server.Request) -> bytes:
        return answer_json(request, _error("there is only /v1/VERB", Kind.REQUEST), 404)


class _Verbs(resource.Resource):
    isLeaf = True

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def render(self, request: BoundedRequest) -> bytes | int:
        if request.method != b"POST":
            request.setHeader(b"Allow", b"POST")
            return answer_json(request, _error("the control socket takes POST only", Kind.REQUEST), 405)
        if request.oversized:
            return answer_json(request, _error("the request is too large", Kind.REQUEST), 413)
        try:
            arguments = json.loads(request.body or b"{}")
        except (ValueError, RecursionError):
            return answer_json(request, _error("the body is not JSON", Kind.REQUEST), 400)
        verb = b"/".join(request.postpath or []).decode("ascii", "replace")
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        work = Deferred.fromCoroutine(self._carry_out(verb, arguments, _caller(request)))
        work.addCallback(lambda reply: None if gone else self._finish(request, *reply))
        return server.NOT_DONE_YET

    async def _carry_out(self, verb: str, arguments: object, actor: Actor) -> tuple[object, int]:
        """The answer and its HTTP status. Never raises."""
        try:
            result = await self._control.call(verb, arguments, actor)
        except ControlError as error:
            return _error(str(error), error.kind), STATUS[error.kind]
        except Exception:
            log.failure("control verb {verb} failed", verb=verb)
            return _error("that failed inside the daemon; its log has the reason", Kind.FAILED), 500
        if VERBS[verb].changes:
            assert isinstance(arguments, dict)
            subject = {key: value for key, value in arguments.items() if key not in SECRETS}
            log.info("control: {verb} {subject}", verb=verb, subject=subject)
        return result, 200

    @staticmethod
    def _finish(request: server.Request, value: object, status: int) -> None:
        request.write(answer_json(request, value, status))
        request.finish()


def _caller(request: BoundedRequest) -> Actor:
    """Who is at the other end, as the kernel says (SO_PEERCRED of unix(7))."""
    try:
        transport: Any = request.channel.transport
        handle = transport.getHandle()
        _, uid, _ = struct.unpack("3i", handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except (AttributeError, OSError):
        return Actor("local:unknown")
    return Actor(f"local:{user_name(uid)}")


def user_name(uid: int) -> str:
    """The name of a user of this machine, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _error(sentence: str, kind: Kind) -> object:
    return {"error": sentence, "kind": kind.value}
