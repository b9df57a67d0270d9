# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface is specified once, in utun.yaml; the header, the manual and the tests' client say the same.

Needs no virtual machine.
"""

from __future__ import annotations

import re
from pathlib import Path

from support import vm_spec, vm_utun

from ddtb6.dataplane import utun_messages
from ddtb6.tunnel.reasons import Refusal

UTUN = Path(__file__).parents[2] / "kmod/utun"
HEADER = (UTUN / "uapi/utun.h").read_text()


def header_constants() -> dict[str, int]:
    """What the C header gives numbers to."""
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    found = {name: int(value) for name, value in re.findall(r"^#define (UTUN_\w+)\s+(\d+)\s*$", code, re.MULTILINE)}
    for body in re.findall(r"enum \w+ \{(.*?)\};", code, re.DOTALL):
        number = -1
        for name, given in re.findall(r"(\w+)(?:\s*=\s*([^,]+))?\s*(?:,|$)", body.strip()):
            if name.startswith("__") or name.endswith("_MAX"):
                continue
            shifted = re.fullmatch(r"1 << (\d+)", given.strip())
            number = 1 << int(shifted[1]) if shifted else int(given) if given else number + 1
            found[name] = number
    return found


def test_the_header_has_the_numbers_of_the_specification() -> None:
    specified = vm_spec.constants()
    assert {**specified, "UTUN_GENL_VERSION": 1} == header_constants()


def test_the_struct_of_a_prefix_is_that_of_the_specification() -> None:
    (struct,) = (each for each in vm_spec.load()["definitions"] if each["type"] == "struct")
    sizes = {each["name"]: each.get("len", 1) for each in struct["members"]}
    body = re.search(r"struct utun_prefix \{(.*?)\};", HEADER, re.DOTALL)
    assert body is not None
    fields = re.findall(r"__u8\s+(\w+)(?:\[(\d+)\])?;", body[1])
    assert {name: int(size or 1) for name, size in fields} == sizes


def test_the_manual_names_every_command_and_attribute() -> None:
    manual = HEADER[: HEADER.index("#ifndef")]
    for name in vm_spec.constants():
        if re.match(r"UTUN_(CMD|A|PEER_A)_(?!PAD)", name):
            assert name in manual, name


def test_reasons_have_the_names_that_the_broker_knows() -> None:
    (drop,) = (each for each in vm_spec.load()["definitions"] if each["name"] == "drop")
    assert set(drop["entries"]) == {each.value for each in Refusal}
    trace = re.findall(r'\{ UTUN_DROP_(\w+), "([\w-]+)" \}', (UTUN / "trace.h").read_text())
    assert [text for _, text in trace] == drop["entries"]
    assert [name.lower().replace("_", "-") for name, _ in trace] == drop["entries"]


def test_the_page_for_maintainers_lists_what_is_specified() -> None:
    """Rows of its tables by what stands in their first cell: drop reasons, commands, attributes of a peer, events."""
    page = (UTUN.parents[1] / "docs/utun.md").read_text()
    tables: dict[str, list[str]] = {}
    for part in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *rows = part.splitlines()
        cells = [row.split("|")[1] for row in rows]
        tables[head.split("|")[1].strip()] = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    spec = vm_spec.load()
    enums = {each["name"]: each.get("entries") for each in spec["definitions"]}
    sets = {each["name"]: [attr["name"] for attr in each["attributes"]] for each in spec["attribute-sets"]}
    assert tables["reason"] == enums["drop"]
    assert tables["event"] == enums["event"]
    assert tables["command"] == [each["name"] for each in spec["operations"]["list"]]
    assert sorted(tables["attribute of a peer"]) == sorted(set(sets["peer"]) - {"pad"})
    for name in (*sets["utun"], *enums["transport"], *(each["name"] for each in enums["peer-flags"])):
        assert f"`{name}`" in page, name


def test_every_file_says_what_it_is_for() -> None:
    for path in UTUN.glob("*.[ch]"):
        assert re.match(r"(// SPDX.*\n|/\* SPDX.*\*/\n)/\*\n \* \w", path.read_text()), path.name


def test_the_client_of_the_tests_has_the_same_numbers() -> None:
    specified = vm_spec.constants()
    for prefix, strip in (("UTUN_CMD_", ""), ("UTUN_A_", "A_"), ("UTUN_PEER_A_", ""), ("UTUN_EVENT_", "")):
        for name, number in specified.items():
            if name.startswith(prefix) and name not in ("UTUN_PEER_A_PAD",):
                mine = strip + name.removeprefix(prefix)
                mine = {"DROPS": "PEER_DROPS"}.get(mine, mine)
                assert getattr(vm_utun, mine) == number, name
    assert [specified[f"UTUN_DROP_{each.replace('-', '_').upper()}"] for each in vm_utun.REASONS] == list(range(1, 11))


def test_the_daemon_has_the_same_numbers() -> None:
    specified = vm_spec.constants()
    spoken = {f"UTUN_CMD_{each}": each for each in ("DEV_GET", "SOCKET_ADD", "SOCKET_DEL", "PEER_ADD", "PEER_SET")}
    spoken |= {f"UTUN_CMD_{each}": each for each in ("PEER_DEL", "PEER_FLUSH", "PEER_GET", "EVENT")}
    spoken |= {each: each.removeprefix("UTUN_") for each in specified if each.startswith("UTUN_A_")}
    spoken |= {each: each.removeprefix("UTUN_PEER_A_") for each in specified if each.startswith("UTUN_PEER_A_")}
    spoken |= {"UTUN_PEER_A_DROPS": "PEER_DROPS", "UTUN_TRANSPORT_UDP": "UDP", "UTUN_IDS_MAX": "IDS_MAX"}
    spoken |= {"UTUN_TRANSPORT_SIXINFOUR": "SIXINFOUR"}
    assert {each for each in specified if re.match("UTUN_(CMD|TRANSPORT)_", each)} <= set(spoken)
    assert {each: getattr(utun_messages, name) for each, name in spoken.items()} == {
        each: specified[each] for each in spoken
    }
    (drop,) = (each for each in vm_spec.load()["definitions"] if each["name"] == "drop")
    assert [each.value for each in utun_messages.REASONS] == drop["entries"]
    assert specified["UTUN_DROP_MALFORMED"] == 1
    assert (vm_spec.load()["name"], utun_messages.VERSION) == (
        utun_messages.NAME,
        header_constants()["UTUN_GENL_VERSION"],
    )


def test_the_module_asks_for_nothing_that_it_refuses_to_be() -> None:
    """No parameters, no files below /proc or /sys/kernel/debug, no ioctl, no sockets or timers of its own."""
    refused = (
        "module_param|proc_create|debugfs|ndo_do_ioctl|ndo_siocdevprivate|sock_create|timer_setup|LINUX_VERSION_CODE"
    )
    for path in UTUN.glob("*.[ch]"):
        assert re.search(refused, path.read_text()) is None, path.name


def test_differences_between_kernels_stand_in_one_file() -> None:
    probed = set(re.findall(r"utun-have(?:-near)?,(\w+),", (UTUN / "Kbuild").read_text()))
    asked = set(re.findall(r"UTUN_HAVE_(\w+)", (UTUN / "compat.h").read_text())) - {""}
    assert probed == asked
    for path in UTUN.glob("*.[ch]"):
        assert path.name == "compat.h" or "UTUN_HAVE_" not in path.read_text(), path.name
