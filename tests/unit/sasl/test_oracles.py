# SPDX-License-Identifier: GPL-2.0-or-later
"""Other people's SASL against ours, in both roles."""

from __future__ import annotations

import subprocess
from base64 import b64decode, b64encode

import pytest
from support.capabilities import need_program
from twisted.words.protocols.jabber.sasl_mechanisms import DigestMD5

from ddtb6.sasl.credentials import DigestProof, Plain
from ddtb6.sasl.digest import check, check_rspauth, encode_line, respond, user_secret
from ddtb6.sasl.mechanisms import Mechanism, mechanism, rspauth_reply

USER, PASSWORD, REALM, HOST = "alice", "s3 c:r,et", "ddtb6", "192.0.2.1"
SECRET = user_secret(USER, REALM, PASSWORD)


def ours(name: str) -> tuple[Mechanism, bytes]:
    made = mechanism(name, realm=REALM, nonce=lambda: b"abcdefghijklmnopqrst-_", version=(2, 0, 2))
    assert made is not None
    opening = made.start()
    assert isinstance(opening, bytes)
    return made, opening


def gsasl(role: str, name: str, *options: str) -> list[str]:
    return [
        need_program("interop", "gsasl"),
        f"--{role}",
        f"--mechanism={name}",
        f"--password={PASSWORD}",
        "--service=tsp",
        f"--hostname={HOST}",
        "--quality-of-protection=qop-auth",
        "--no-cb",
        *options,
    ]


def test_client_of_twisted_words() -> None:
    made, challenge = ours("DIGEST-MD5")
    theirs = DigestMD5("tsp", HOST, None, USER, PASSWORD)
    proof = made.respond(encode_line(theirs.getResponse(b64decode(challenge))))
    assert isinstance(proof, DigestProof)
    rspauth = check(proof, SECRET)
    assert rspauth is not None
    assert theirs.getResponse(b64decode(rspauth_reply(rspauth))) == b""
    assert check(proof, user_secret(USER, REALM, "wrong")) is None


@pytest.mark.interop
@pytest.mark.parametrize("authzid", [(), ("--authorization-id=",)], ids=["no authzid", "empty authzid"])
def test_client_of_gnu_sasl(authzid: tuple[str, ...]) -> None:
    made, challenge = ours("DIGEST-MD5")
    # GNU SASL does not know the name that TSP clients have for this character set.
    readable = b64encode(b64decode(challenge).replace(b"utf8", b"utf-8")).decode()
    command = gsasl("client", "DIGEST-MD5", f"--authentication-id={USER}", f"--realm={REALM}", *authzid)
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        print(readable, file=client.stdin, flush=True)
        assert [client.stdout.readline() for _ in range(2)] == ["DIGEST-MD5\n", "\n"]
        proof = made.respond(client.stdout.readline().encode())
        assert isinstance(proof, DigestProof)
        rspauth = check(proof, SECRET)
        assert rspauth is not None
        print(rspauth_reply(rspauth).decode().strip(), file=client.stdin, flush=True)
        client.communicate("\n", timeout=20)
    assert client.returncode == 0, "the client did not believe our rspauth"


@pytest.mark.interop
def test_server_of_gnu_sasl() -> None:
    who = (USER, PASSWORD, f"tsp/{HOST}", b"0a4f113b")
    with subprocess.Popen(
        gsasl("server", "DIGEST-MD5", f"--realm={REALM}"), stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "DIGEST-MD5\n"
        challenge = server.stdout.readline().encode()
        print(respond(challenge, *who).decode().strip(), file=server.stdin, flush=True)
        assert check_rspauth(server.stdout.readline().encode(), challenge, *who)
        server.communicate("\n", timeout=20)
    assert server.returncode == 0


@pytest.mark.interop
@pytest.mark.parametrize("authzid", ["", USER])
def test_plain_of_gnu_sasl(authzid: str) -> None:
    made, _ = ours("PLAIN")
    command = gsasl("client", "PLAIN", f"--authentication-id={USER}", f"--authorization-id={authzid}")
    said = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=20, check=True).stdout
    assert made.respond(b64decode(said.splitlines()[1])) == Plain(USER, PASSWORD)
