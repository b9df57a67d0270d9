# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets made inside the kernel and given to a device as received, without a system call or a process in between.

The kernel's test run of XDP programs with live frames (BPF_PROG_TEST_RUN, Linux 5.18 and later): a small program
writes a frame and lets it pass, and the kernel says what a frame took on average: its making, which stands for what a
driver does, and all that the stack did with it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from dataclasses import dataclass

from tests.support.netns import Namespace

SYS_BPF, PROG_LOAD, PROG_TEST_RUN, XDP, LIVE_FRAMES = 321, 5, 10, 6, 2
XDP_DROP, XDP_PASS = 1, 2
BATCH, PARTS = 64, 10

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Field:
    """A number in network order, drawn for each frame: `base` + (n >> `right` & `mask`) << `left`."""

    offset: int
    octets: int
    """2 or 4."""
    base: int = 0
    right: int = 0
    mask: int = 0xFFFFFFFF
    left: int = 0


@dataclass(frozen=True, slots=True)
class Frames:
    """What is injected: one frame, with fields that depend on n, a number drawn for each below `count`."""

    device: str
    frame: bytes
    fields: tuple[Field, ...] = ()
    count: int = 1
    checksum: Field | None = None
    """Where the IPv4 header's checksum is, and what of n is added to its `base`, the sum of the rest (16 bits)."""


class Injector:
    """The frames of one kind, ready to be sent into `space`; a context manager."""

    def __init__(self, space: Namespace, frames: Frames) -> None:
        self._space, self._frames = space, frames
        with space.inside():
            self._device = socket.if_nametoindex(frames.device)
        self._programs = {verdict: _load(_program(frames, verdict)) for verdict in (XDP_PASS, XDP_DROP)}

    def __enter__(self) -> Injector:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._programs.values():
            os.close(each)

    def nanoseconds(self, packets: int, verdict: int = XDP_PASS) -> int:
        """What the kernel takes for one of `packets` frames, or for making it (`XDP_DROP`).

        It is the least of `PARTS` parts, so that what other programs take of the processor counts less. Raises OSError
        where live frames cannot be had.
        """
        with self._space.inside():
            return min(self._run(self._programs[verdict], packets // PARTS) for _ in range(PARTS))

    def _run(self, program: int, packets: int) -> int:
        data = ctypes.create_string_buffer(self._frames.frame, len(self._frames.frame))
        context = ctypes.create_string_buffer(struct.pack("=6I", 0, len(data), 0, self._device, 0, 0))
        attributes = bytearray(
            struct.pack(
                "=4I2Q4I2Q3I4x",
                *(program, 0, len(data), 0, ctypes.addressof(data), 0, packets, 0, len(context) - 1, 0),
                *(ctypes.addressof(context), 0, LIVE_FRAMES, 0, BATCH),
            )
        )
        _bpf(PROG_TEST_RUN, attributes)
        return int(struct.unpack_from("=I", attributes, 36)[0])


def _bpf(command: int, attributes: bytearray) -> int:
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf: {os.strerror(ctypes.get_errno())}")
    return int(result)


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(1 << 16)
    addresses = (ctypes.addressof(code), ctypes.addressof(licence))
    head = struct.pack("=2I2Q2IQ", XDP, len(program) // 8, *addresses, 1, len(log), ctypes.addressof(log))
    try:
        return _bpf(PROG_LOAD, bytearray(head + bytes(72)))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}\n{log.value.decode(errors='replace')}") from error


# --- the program --------------------------------------------------------------------------------------------------

_R0, _R1, _R2, _R3, _R4, _DATA, _N, _X = 0, 1, 2, 3, 4, 6, 7, 8
_MOV_K, _MOV, _ADD_K, _MOD_K, _AND_K, _XOR_K, _LSH_K, _RSH_K = 0xB7, 0xBF, 0x07, 0x97, 0x57, 0xA7, 0x67, 0x77
_ADD, _TO_BE, _LOAD_W, _JUMP_GT, _CALL, _EXIT = 0x0F, 0xDC, 0x61, 0x2D, 0x85, 0x95
_STORE_W, _STORE_H, _STORE_W_K, _STORE_H_K = 0x63, 0x6B, 0x62, 0x6A
_PRANDOM = 7


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, offset, number if number < 1 << 31 else number - (1 << 32))


def _drawn(field: Field) -> list[bytes]:
    """X = (N >> right & mask) << left."""
    steps = ((_RSH_K, field.right), (_AND_K, field.mask), (_LSH_K, field.left))
    needed = [(code, by) for code, by in steps if by and by != 0xFFFFFFFF]
    return [_op(_MOV, _X, _N), *(_op(code, _X, number=by) for code, by in needed)]


def _program(frames: Frames, verdict: int) -> bytes:
    # All headers are written each time: the kernel uses pages again, as the stack has left them. Frames begin two
    # octets before a multiple of four, and some machines take only what is aligned.
    headers = min(len(frames.frame), 86)
    code = [_op(_MOV, _DATA, _R1)]
    if frames.count > 1:
        code += [_op(_CALL, number=_PRANDOM), _op(_MOV, _N, _R0), _op(_MOD_K, _N, number=frames.count)]
    else:
        code += [_op(_MOV_K, _N)]
    code += [_op(_LOAD_W, _R3, _DATA, 4), _op(_LOAD_W, _DATA, _DATA, 0), _op(_MOV, _R4, _DATA)]
    code += [_op(_ADD_K, _R4, number=headers)]
    body = [_op(_STORE_H_K, _DATA, 0, 0, int.from_bytes(frames.frame[:2], "little"))]
    for at in range(2, headers, 4):
        body.append(_op(_STORE_W_K, _DATA, 0, at, int.from_bytes(frames.frame[at : at + 4], "little")))
    for field in frames.fields:
        body += _drawn(field)
        body += [_op(_MOV_K, _R2, number=field.base), _op(_ADD, _X, _R2)] if field.base else []
        body += [_op(_TO_BE, _X, number=8 * field.octets)]
        body += [_op(_STORE_W if field.octets == 4 else _STORE_H, _DATA, _X, field.offset)]
    if (sum_field := frames.checksum) is not None:
        body += [*_drawn(sum_field), _op(_ADD_K, _X, number=sum_field.base), _op(_MOV, _R2, _X)]
        body += [_op(_RSH_K, _R2, number=16), _op(_AND_K, _X, number=0xFFFF), _op(_ADD, _X, _R2)]
        body += [_op(_XOR_K, _X, number=0xFFFF), _op(_TO_BE, _X, number=16)]
        body += [_op(_STORE_H, _DATA, _X, sum_field.offset)]
    code += [_op(_JUMP_GT, _R4, _R3, len(body)), *body, _op(_MOV_K, _R0, number=verdict), _op(_EXIT)]
    return b"".join(code)
