# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration reader: samples, every error with its key, and independence of order."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.addressing.pool import Use
from ddtb6.config import (
    Config,
    ConfigError,
    RadiusDynamicClientConfig,
    RadiusServerConfig,
    cautions,
    describe,
    load,
    parse,
    radius_client_secret,
    radius_secret,
)
from ddtb6.config.documentation import Key
from ddtb6.config.sample import Table, sample, written

ETC = Path(__file__).parents[2] / "etc"

LINKS = '[pool.links]\nblock = "2001:db8:0:1::/64"\nuse = "accounts"\n'
HOME = '[pool.home]\nblock = "2001:db8:1000::/36"\nuse = "prefixes"\nlength = 56\n'
RADIUS = '[radius.server.one]\naddress = "192.0.2.1"\nsecret = "not to be seen"\n'
PORTAL = '[radius.dynamic.client.portal]\naddress = "::1"\nsecret = "not to be seen"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(each) for each in caught.value.problems]


def test_sample_is_the_defaults_and_two_pools() -> None:
    config = load(ETC / "ddtb6.toml")
    assert dataclasses.replace(config, pools={}) == Config()
    assert {pool.name: (pool.use, pool.length) for pool in config.pools.values()} == {
        "links": (Use.ACCOUNTS, 128),
        "home56": (Use.PREFIXES, 56),
    }


def test_sample_has_every_key_with_its_default() -> None:
    """Uncommenting all keys gives the same configuration, and no key is missing."""
    text = (ETC / "ddtb6.toml").read_text()
    uncommented = re.sub(r"(?m)^#(?=[a-z0-9_\[]+(?:[.a-z]*\]| = ))", "", text)
    tables = tomllib.loads(uncommented)
    for key in describe():
        table = tables
        for part in key.section.split("."):
            table = table[part] if part != "NAME" else list(table.values())[-1]
        assert key.name in table, f"{key.section}.{key.name}"
    config = parse(uncommented)
    as_it_is = load(ETC / "ddtb6.toml")
    assert dataclasses.replace(config, pools={}, radius_servers={}, radius_dynamic_clients={}) == Config()
    assert {
        name: dataclasses.replace(each, address="", secret="") for name, each in config.radius_dynamic_clients.items()
    } == {"portal": RadiusDynamicClientConfig("")}
    assert {name: dataclasses.replace(each, address="", secret="") for name, each in config.radius_servers.items()} == {
        "one": RadiusServerConfig("")
    }
    assert {name: config.pools[name] for name in as_it_is.pools} == as_it_is.pools


def test_the_sample_is_fresh() -> None:
    assert (ETC / "ddtb6.toml").read_text() == sample(), "run `make docs`"


@given(
    st.builds(
        lambda chain, realm, mtu, rate, resolver, ports: [
            Table("server", {"realm": realm}),
            Table("auth", {"chain": chain}),
            Table("tunnel", {"mtu": mtu, "resolver": resolver}),
            Table("limits", {"per_source_rate": rate}),
            Table("listen", {"udp": [Endpoint("::1", each) for each in ports]}),
            Table("pool.links", {"block": IPv6Network("2001:db8:0:1::/64"), "use": Use.ACCOUNTS}, "Ours.\nreally"),
        ],
        st.sampled_from([("local",), ("local", "anonymous")]),
        st.text("abcXYZ0189'#[]=", min_size=1, max_size=24),
        st.integers(1280, 65507),
        st.floats(0.001, 1_000_000),
        st.sampled_from([None, IPv6Address("2001:db8::53")]),
        st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True),
    )
)
def test_what_is_written_reads_the_same(tables: list[Table]) -> None:
    given = {table.name: dict(table.values) for table in tables}
    if "anonymous" in given["auth"]["chain"]:
        tables.append(Table("pool.guests", {"block": "2001:db8:0:2::/64", "use": Use.ANONYMOUS}))
    config = parse(written(tables))
    assert config.server.realm == given["server"]["realm"]
    assert config.auth.chain == given["auth"]["chain"]
    assert (config.tunnel.mtu, config.tunnel.resolver) == (given["tunnel"]["mtu"], given["tunnel"]["resolver"])
    assert config.limits.per_source_rate == given["limits"]["per_source_rate"]
    assert config.listen.udp == tuple(given["listen"]["udp"])
    assert config.pools["links"].block == given["pool.links"]["block"]


def test_development_configuration() -> None:
    config = load(ETC / "ddtb6.dev.toml")
    assert config.auth.chain == ("local", "anonymous")
    assert config.server.state == Path("run")
    assert sorted(pool.length for pool in config.pools.values() if pool.use is Use.PREFIXES) == [48, 56, 60, 64]
    assert cautions(config) == []


def test_every_key_is_documented() -> None:
    for key in describe():
        assert key.doc.endswith("."), key
    assert {key.section for key in describe()} >= {"server", "listen", "pool.NAME"}


def test_all_errors_at_once_each_with_its_key() -> None:
    assert problems(
        """
        surplus = 1
        [server]
        realm = 'a "b"'
        sate = "x"
        [listne]
        [auth]
        chain = ["lokal"]
        [tunnel]
        mtu = 1279
        keepalive = true
        resolver = "192.0.2.1"
        realm = "here"
        [limits]
        per_source_rate = "fast"
        [pool.home56]
        block = "2001:db8::/48"
        use = "prefixes"
        length = 57
        """
    ) == [
        'auth.chain: "lokal" is not one of local, radius, anonymous; did you mean local?',
        'limits.per_source_rate: must be a number, not "fast"',
        "listne: there is no such section; did you mean listen?",
        "pool.home56.length: 57 is not one of 48, 52, 56, 60, 64",
        'server.realm: "a "b"" must have 1 to 24 visible ASCII characters without quote, comma, backslash and colon',
        "server.sate: there is no such key; did you mean state?",
        "surplus: there is no such key outside of the sections",
        "tunnel.keepalive: must be a whole number, not true",
        "tunnel.mtu: 1279 is not between 1280 and 65507",
        "tunnel.realm: there is no such key; it belongs in [server]",
        'tunnel.resolver: "192.0.2.1" is not an IPv6 address',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not toml", "not TOML: "),
        ("server = 3", "server: must be a table: [server]"),
        ("pool = 3", "pool: must be tables: [pool.NAME]"),
        ("pool.x = 3", "pool.x: must be a table: [pool.x]"),
        ('[listen]\nudp = ["::1:3653"]', 'listen.udp: "::1:3653": brackets go around an IPv6 address, and only there'),
        ('[listen]\nudp = ["[192.0.2.1]:3653"]', 'listen.udp: "[192.0.2.1]:3653": brackets go'),
        ('[listen]\nudp = ["localhost:3653"]', 'listen.udp: "localhost:3653" is not like "192.0.2.1:3653"'),
        ('[listen]\nudp = ["192.0.2.1"]', 'listen.udp: "192.0.2.1" is not like "192.0.2.1:3653"'),
        ('[listen]\nudp = ["192.0.2.1:0"]', 'listen.udp: "192.0.2.1:0": the port must be 1 to 65535'),
        ('[listen]\nudp = ["192.0.2.1:65536"]', 'listen.udp: "192.0.2.1:65536": the port must be 1 to 65535'),
        ('[listen]\nudp = "192.0.2.1:1"', 'listen.udp: must be a list in brackets, not "192.0.2.1:1"'),
        ('[listen]\ntcp = ["1.2.3.4:1", "1.2.3.4:1"]', "listen.tcp: 1.2.3.4:1 is listed twice"),
        ("[listen]\nudp = []\ntcp = []", "listen: neither udp nor tcp has an address"),
        ("[auth]\nchain = []", "auth.chain: is empty"),
        ("[auth]\nmechanisms = []", "auth.mechanisms: is empty"),
        (
            '[auth]\nmechanisms = ["ANONYMOUS"]',
            "auth.mechanisms: auth.chain has local, which needs DIGEST-MD5 or PLAIN",
        ),
        ('[auth]\nchain = ["anonymous"]', "pool: auth.chain has anonymous, but there is no pool with use = anonymous"),
        (
            '[auth]\nchain = ["local", "radius"]',
            "radius.server: auth.chain has radius, but there is no [radius.server.",
        ),
        (
            f'{RADIUS}[auth]\nchain = ["radius"]\nmechanisms = ["DIGEST-MD5", "PLAIN"]\n[radius]\nmodes = ["pap"]',
            "auth.mechanisms: nobody in auth.chain can judge DIGEST-MD5",
        ),
        (
            f'{RADIUS}[auth]\nchain = ["radius"]\nmechanisms = ["PLAIN"]\n[radius]\nmodes = ["digest"]',
            "radius.modes: auth.chain has radius, but digest judges none of auth.mechanisms",
        ),
        ('[auth]\nmechanisms = ["PLAIN", "ANONYMOUS"]', "auth.mechanisms: nobody in auth.chain can judge ANONYMOUS"),
        ('[radius]\nmodes = ["pap", "digest", "ha1"]', "radius.modes: names two ways to judge DIGEST-MD5"),
        ('[radius]\nmodes = ["chap"]', 'radius.modes: "chap" is not one of pap, digest'),
        ('[radius]\norder = ["one"]', 'radius.order: there is no server "one"'),
        (f'{RADIUS}[radius]\norder = ["two"]', 'radius.order: leaves out "one"'),
        ("[radius]\ninterim_interval = 59", "radius.interim_interval: 59.0 is neither 0 nor between 60 and 86400"),
        ('[radius]\nnas_ip_address = "::1"', 'radius.nas_ip_address: "::1" is not an IPv4 address'),
        ("[radius]\nwithout_rspauth = 1", "radius.without_rspauth: must be true or false, not 1"),
        ("radius = 3", "radius: must be a table: [radius]"),
        ("[radius]\nserver = 3", "radius.server: must be tables: [radius.server.NAME]"),
        ('[radius.server.one]\nsecret = "s"', "radius.server.one.address: is missing"),
        ('[radius.server.one]\naddress = "192.0.2.1"', "radius.server.one.secret: give either secret or secret_file"),
        (f'{RADIUS}secret_file = "f"', "radius.server.one.secret: give either secret or secret_file"),
        ('[radius.server.one]\naddress = "radius.example"\nsecret = "s"', "is not a numeric IPv4 or IPv6 address"),
        ('[radius.server.one]\naddress = "fe80::1%eth0"\nsecret = "s"', "has a scope; give the address alone"),
        (f'{RADIUS}message_authenticator = "maybe"', 'message_authenticator: "maybe" is not one of auto, yes, no'),
        ('[radius.dynamic]\nlisten = ["[::1]:3799"]', "radius.dynamic.listen: there is no [radius.server.NAME] and no"),
        ("[radius]\ndynamic = 3", "radius.dynamic: must be a table: [radius.dynamic]"),
        ("[radius.dynamic]\nclient = 3", "radius.dynamic.client: must be tables: [radius.dynamic.client.NAME]"),
        ("[radius.dynamic]\nlisten = [3799]", "radius.dynamic.listen: must be text in quotes, not 3799"),
        ("[radius.dynamic]\nrequire_event_timestamps = true", "there is no such key; did you mean require_event"),
        (f"{PORTAL}[radius.dynamic.client.other]", "radius.dynamic.client.other.address: is missing"),
        (f"{PORTAL}secret_file = 'f'", "radius.dynamic.client.portal.secret: give either secret or secret_file"),
        (PORTAL + PORTAL.replace("portal", "z").replace("::1", "0::1"), "radius.dynamic.client.z.address: 0::1 is"),
        (f"{RADIUS}secrets = 3", "radius.server.one.secrets: there is no such key; did you mean secret?"),
        ('[server]\nstate = ""', "server.state: must be a path"),
        ('[tunnel]\ndomain = "example.net."', 'tunnel.domain: "example.net." is not a domain name'),
        ('[dataplane]\ndevice = "much-too-long-a-name"', 'dataplane.device: "much-too-long-a-name" is not 1 to 15'),
        ('[web]\nlisten = "8653"', 'web.listen: "8653" is not like'),
        ("[limits]\noverall_rate = inf", "limits.overall_rate: must be a number, not inf"),
        ('[pool."a b"]\nblock = "2001:db8::/32"\nuse = "accounts"', "pool.a b: the name of a pool has"),
        ("[pool.x]", "pool.x.block: is missing"),
        ("[pool.x]", "pool.x.use: is missing"),
        ('[pool.x]\nblock = "2001:db8::"\nuse = "accounts"', 'pool.x.block: "2001:db8::" lacks its length'),
        (
            '[pool.x]\nblock = "2001:db8::1/64"\nuse = "accounts"',
            "bits set after its length; did you mean 2001:db8::/64?",
        ),
        ('[pool.x]\nblock = "192.0.2.0/24"\nuse = "accounts"', 'pool.x.block: "192.0.2.0/24" is not an IPv6 prefix'),
        ('[pool.x]\nblock = "2001:db8::/127"\nuse = "accounts"', "pool.x.block: 2001:db8::/127 must be a /3 to /126"),
        ('[pool.x]\nblock = "2001:db8::/64"\nuse = "account"', 'pool.x.use: "account" is not one of'),
        ('[pool.x]\nblock = "2001:db8::/64"\nuse = "accounts"\nlength = 64', "pool.x.length: 64 makes no sense here"),
        ('[pool.x]\nblock = "2001:db8::/64"\nuse = "prefixes"', "pool.x.length: is missing"),
        ('[pool.x]\nblock = "2001:db8::/64"\nuse = "prefixes"\nlength = 56', "2001:db8::/64 is smaller than one /56"),
        (
            '[pool.x]\nblock = "2001:db8:0:1::/120"\nuse = "anonymous"',
            "pool.x.block: 2001:db8:0:1::/120 overlaps 2001:db8:0:1::/64 of pool.links",
        ),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    assert any(problem in each for each in problems(f"{text}\n{LINKS if '[pool' in text or '[' in text else ''}")), text


def test_accounts_need_a_pool() -> None:
    assert problems(HOME) == ["pool: there is no pool with use = accounts, so nobody who logs in would get an address"]


def test_a_refused_value_causes_no_second_error() -> None:
    assert problems('[pool.links]\nblock = "oops"\nuse = "accounts"\n') == [
        'pool.links.block: "oops" is not an IPv6 prefix such as 2001:db8:1::/48'
    ]


def test_values_are_converted() -> None:
    config = parse(
        '[listen]\nudp = ["[2001:DB8::1]:53", "192.0.2.1:3653"]\n[tunnel]\nresolver = "2001:db8::53"\n'
        f"[limits]\nper_source_rate = 3\n{LINKS}quarantine = 60\n"
    )
    assert config.listen.udp == (Endpoint("2001:db8::1", 53), Endpoint("192.0.2.1", 3653))
    assert config.tunnel.resolver == IPv6Address("2001:db8::53")
    assert isinstance(config.limits.per_source_rate, float)
    pool = config.pools["links"]
    assert (pool.block, pool.use, pool.quarantine) == (IPv6Network("2001:db8:0:1::/64"), Use.ACCOUNTS, 60.0)


def test_quarantine_defaults_follow_the_use() -> None:
    guests = '[pool.guests]\nblock = "2001:db8:0:2::/64"\nuse = "anonymous"\n'
    config = parse(LINKS + HOME + guests)
    rest = {name: pool.quarantine for name, pool in config.pools.items()}
    assert rest == {"links": 7 * 86400.0, "home": 7 * 86400.0, "guests": 600.0}


@given(st.permutations(sorted({LINKS, HOME, "[tunnel]\nmtu = 1400\n", '[server]\nrealm = "r"\n'})))
def test_order_never_matters(parts: list[str]) -> None:
    config = parse("".join(parts))
    assert config.tunnel.mtu == 1400
    assert list(config.pools) == ["home", "links"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    st.sampled_from(describe()),
)
def test_any_value_gives_a_config_or_config_errors(value: object, key: Key) -> None:
    """Only ConfigError, with the key in it, whatever stands after the equals sign."""

    def toml(each: object) -> str:
        if isinstance(each, bool):
            return str(each).lower()
        if isinstance(each, list):
            return f"[{', '.join(map(toml, each))}]"
        if isinstance(each, str):
            return '"' + "".join(f"\\U{ord(character):08x}" for character in each) + '"'
        return "1979-05-27" if each is None else str(each)

    section = key.section.replace("NAME", "x")
    text = f"{LINKS}[{section}]\n{key.name} = {toml(value)}\n"
    try:
        parse(text)
        found = []
    except ConfigError as error:
        found = [problem.key for problem in error.problems]
    assert all(each.startswith((section, "auth", "listen", "pool")) for each in found)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; `ddtb6 setup` writes it"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin1.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "latin1.toml")


def test_cautions() -> None:
    def keys(text: str) -> list[str]:
        return [str(each) for each in cautions(parse(text))]

    assert keys(LINKS) == [
        "pool.links.block: 2001:db8:0:1::/64 is documentation space that nobody routes; use your own prefix",
        "pool: there is no pool with use = prefixes, so every wish for a prefix gets 507",
    ]
    real = (
        '[pool.a]\nblock = "2a00:1:2::/64"\nuse = "accounts"\n[pool.b]\nblock = "fd00::/40"\nuse="prefixes"\nlength=64'
    )
    assert keys(real) == ["pool.b.block: fd00::/40 is unique local space (RFC 4193), not routed on the Internet"]
    assert any(each.startswith("tunnel.keepalive: ") for each in keys("[tunnel]\nkeepalive = 0\n" + LINKS))
    assert any(each.startswith("dataplane.kind: ") for each in keys('[dataplane]\nkind = "memory"\n' + LINKS))


def test_radius_servers_are_asked_by_name_or_as_ordered() -> None:
    servers = "".join(RADIUS.replace("one", name) for name in ("one", "two", "three"))
    assert list(parse(LINKS + servers).radius_servers) == ["one", "three", "two"]
    order = '[radius]\norder = ["two", "one", "three"]\n'
    for text in (LINKS + servers + order, order + servers + LINKS):
        assert list(parse(text).radius_servers) == ["two", "one", "three"]


def test_radius_alone_can_judge() -> None:
    config = parse(f'{LINKS}{RADIUS}[auth]\nchain = ["radius"]\n[radius]\nmodes = ["ha1", "pap"]\n')
    assert config.auth.mechanisms == ("DIGEST-MD5", "PLAIN", "ANONYMOUS")
    assert [each.key for each in cautions(config)][1:3] == ["radius.modes", "radius.server.one.secret"]


def test_local_accounts_behind_radius_are_never_asked() -> None:
    def said(chain: str) -> bool:
        config = parse(f"{LINKS}{RADIUS}[auth]\nchain = [{chain}]\n")
        return any(each.key == "auth.chain" and "put local first" in each.sentence for each in cautions(config))

    assert said('"radius", "local"')
    assert not said('"local", "radius"')


def test_a_shared_secret_shows_nowhere(tmp_path: Path) -> None:
    config = parse(LINKS + RADIUS)
    assert "not to be seen" not in repr(config) + repr(cautions(config))
    wrong = RADIUS.replace('"not to be seen"', "20061") + "address = 5\n"
    assert "20061" not in str(problems(RADIUS.replace('"not to be seen"', "20061")))
    assert "20061" not in str(problems(wrong))
    assert radius_secret("one", config.radius_servers["one"]) == b"not to be seen"


def test_a_shared_secret_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    text = f'{LINKS}[radius.server.one]\naddress = "::1"\nsecret_file = "{path}"\n'
    server = parse(text).radius_servers["one"]
    with pytest.raises(ConfigError, match=r"radius\.server\.one\.secret_file: .* cannot be read: No such file"):
        radius_secret("one", server)
    path.write_bytes(b"\nsecond line\n")
    with pytest.raises(ConfigError, match="has an empty first line"):
        radius_secret("one", server)
    path.write_bytes("p\u00e4ss word\r\nsecond line\n".encode())
    assert radius_secret("one", server) == "p\u00e4ss word".encode()


def test_who_may_send_disconnects() -> None:
    config = parse(f'{LINKS}{PORTAL}[radius.dynamic]\nlisten = ["0.0.0.0:3799", "[::]:3799"]\n')
    assert config.radius_dynamic.listen == (Endpoint("0.0.0.0", 3799), Endpoint("::", 3799))
    (client,) = config.radius_dynamic_clients.values()
    assert client.address == "::1"
    assert radius_client_secret("portal", client) == b"not to be seen"
    assert "not to be seen" not in repr(config)


def test_accounting_needs_somebody_to_tell() -> None:
    assert not parse(LINKS).accounts_by_radius
    assert parse(LINKS + RADIUS).accounts_by_radius
    assert not parse(f"{LINKS}{RADIUS}acct_port = 0\n").accounts_by_radius
    assert not parse(f"{LINKS}{RADIUS}[radius]\naccounting = false\n").accounts_by_radius
