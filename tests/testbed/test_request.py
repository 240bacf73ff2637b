"""Requests out of bytes, whole, in pieces, and broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.server.request import (
    HEAD_MAX_BYTES,
    BadRequestError,
    Control,
    Refusal,
    Stats,
    Work,
    parse_head,
    response,
    understand,
)


def wish(text: bytes):
    head = parse_head(text + b"\r\n\r\n")
    assert head is not None
    return understand(head, 1e6)


def test_each_page_is_understood():
    assert wish(b"GET /dummy.php/?n=2500000 HTTP/1.1") == Work(2.5)
    assert wish(b"GET /dummy.php?n=0 HTTP/1.0") == Work(0.0)
    assert wish(b"GET /?work_us=1500 HTTP/1.1") == Work(0.0015)
    assert wish(b"GET /stats HTTP/1.1") == Stats()
    assert wish(b"POST /control?speed=0.5 HTTP/1.1") == Control(0.5, None)
    assert wish(b"POST /control?fault=reset HTTP/1.1") == Control(None, "reset")
    assert wish(b"GET /other HTTP/1.1") == Refusal(404, "no such page")
    assert wish(b"GET /control?speed=1 HTTP/1.1") == Refusal(405, "only POST here")


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        (b"GET / HTTP/1.1", True),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.1\r\nConnection: close", False),
        (b"GET / HTTP/1.1\r\nconnection:  x , Close", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
    ],
)
def test_the_connection_is_kept_as_the_version_and_the_client_say(text, keep):
    head = parse_head(text + b"\r\n\r\n")
    assert head is not None
    assert head.keep_alive is keep


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET /\r\n",
        b"GET nowhere HTTP/1.1\r\n",
        b"G\xc3T / HTTP/1.1\r\n",
        b"GET /\xff HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"x" * HEAD_MAX_BYTES,
    ],
)
def test_broken_heads_are_refused(text):
    with pytest.raises(BadRequestError):
        parse_head(text)


@pytest.mark.parametrize(
    "target",
    [
        b"/?work_us=",
        b"/?work_us=1.5",
        b"/?work_us=1&work_us=2",
        b"/?work_us=" + b"9" * 19,
        b"/",
        b"/dummy.php/?n=-4",
    ],
)
def test_work_must_be_one_whole_number(target):
    with pytest.raises(BadRequestError):
        wish(b"GET " + target + b" HTTP/1.1")


@pytest.mark.parametrize("speed", [b"fast", b"-1", b"nan", b"inf", b""])
def test_speed_must_be_a_finite_number(speed):
    with pytest.raises(BadRequestError):
        wish(b"POST /control?speed=" + speed + b" HTTP/1.1")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_incomplete_or_refused(data):
    try:
        head = parse_head(data)
        if head is not None:
            understand(head, 1e6)
    except BadRequestError:
        pass


def test_a_head_is_found_only_when_whole():
    text = b"POST /control?speed=1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
    assert all(parse_head(text[:size]) is None for size in range(len(text)))
    head = parse_head(text + b"abcGET")
    assert head is not None
    assert (head.size_bytes, head.body_bytes) == (len(text), 3)


def test_a_response_announces_its_size():
    text = response(200, b"body", keep_alive=False)
    assert text.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 4\r\nConnection: close\r\n\r\nbody" in text
