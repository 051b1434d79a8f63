"""Pictures in terminals: what each protocol writes is decoded again, and terminals of several kinds are asked."""

import base64
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest
from mdm_client.picture.montage import fitted, montage, spread
from mdm_client.picture.protocol import PROTOCOLS, nearest_of_256
from mdm_client.picture.terminal import Terminal, detect
from mdm_wire.errors import Invalid
from PIL import Image


@pytest.fixture
def picture() -> Image.Image:
    """Grey steps with a coloured corner; its sides are multiples of no protocol's unit."""
    pixels = np.zeros((23, 31, 3), np.uint8)
    pixels[...] = (np.arange(31) * 8)[None, :, None]
    pixels[:7, :9] = (200, 30, 60)
    return Image.fromarray(pixels)


def drawn(name: str, picture: Image.Image) -> str:
    return "".join(PROTOCOLS[name][0](picture))


def test_kitty_gets_the_picture_itself_in_chunks_that_it_takes(picture):
    large = picture.resize((310, 230)).effect_spread(40)
    text = drawn("kitty", large)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 2
    assert all(len(data) <= 4096 for _, data in parts)
    assert parts[0][0] == "a=T,f=100,q=2,m=1"
    assert [control for control, _ in parts[1:]] == ["m=1"] * (len(parts) - 2) + ["m=0"]
    shown = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts))))
    assert np.array_equal(np.asarray(shown), np.asarray(large))


def sixels(text: str) -> np.ndarray:
    """Decode a sixel picture."""
    head = re.match(r'\x1bP0;1;0q"1;1;(\d+);(\d+)', text)
    assert head, text[:40]
    assert text.endswith("\x1b\\\n")
    width, height = int(head[1]), int(head[2])
    pixels = np.full((height + 6, width, 3), -1.0)
    colours, colour, x, top = {}, 0, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", text[head.end() : -3]):
        if token[1]:
            colour = int(token[1])
            if token[2]:
                colours[colour] = [int(token[n]) * 2.55 for n in (2, 3, 4)]
        elif token[8]:
            x, top = 0, top + (6 if token[8] == "-" else 0)
        else:
            count, bits = int(token[5] or 1), ord(token[6] or token[7]) - 63
            for row in range(6):
                if bits >> row & 1:
                    pixels[top + row, x : x + count] = colours[colour]
            x += count
    assert np.all(pixels[height:] == -1)
    return pixels[:height]


def test_sixels_say_every_pixel_once_and_in_its_colour(picture):
    found = sixels(drawn("sixel", picture))
    assert np.all(found >= 0)
    assert np.abs(found - np.asarray(picture, float)).max() < 6


def test_half_blocks_have_two_pixels_in_each_character(picture):
    lines = drawn("blocks", picture).splitlines()
    assert len(lines) == 12
    expected = np.asarray(picture).tolist()
    for number, line in enumerate(lines):
        assert line.endswith("\x1b[0m")
        column, style = 0, None
        for found in re.finditer(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m|▀", line):
            if found[0] != "▀":
                style = [int(part) for part in found.groups()]
                continue
            assert style[:3] == expected[2 * number][column]
            assert style[3:] == (expected[2 * number + 1][column] if 2 * number + 1 < 23 else [0, 0, 0])
            column += 1
        assert column == 31


def test_256_colours_are_the_nearest_ones(picture):
    assert [nearest_of_256(pixel) for pixel in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128), (0, 135, 215))] == [
        16, 231, 196, 244, 32,
    ]  # fmt: skip
    assert set(re.findall(r"\x1b\[([^m]*)m", drawn("blocks256", picture))) - {"0"} <= {
        f"38;5;{upper};48;5;{lower}" for upper in range(16, 256) for lower in range(16, 256)
    }


def test_plain_characters_are_the_denser_the_brighter():
    text = drawn("plain", Image.fromarray(np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None], 4, 0)))
    assert text.splitlines() == [text.splitlines()[0]] * 2
    ramp = " .:-=+*#%@"
    places = [ramp.index(character) for character in text.splitlines()[0]]
    assert places == sorted(places) and places[-1] == 9
    assert "\x1b" not in text


class FakeTerminal:
    """A terminal of chosen answers on a pseudo-terminal, and a program in it."""

    def __init__(self, answer: bytes, size: tuple[int, int, int, int] = (30, 100, 0, 0), **environment: str) -> None:
        self.answer, self.size = answer, size
        self.environment = {"PATH": os.environ["PATH"], **environment}
        self.written = b""

    def run(self, script: str) -> str:
        """Return what a Python script prints, whose controlling terminal this is."""
        main, other = pty.openpty()
        fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("4H", *self.size))

        def answer() -> None:
            try:
                while part := os.read(main, 4096):
                    self.written += part
                    if b"\x1b[c" in part and self.answer:
                        os.write(main, self.answer)
            except OSError:  # the other end is closed
                return

        thread = threading.Thread(target=answer)
        thread.start()
        own = "import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        done = subprocess.run([sys.executable, "-c", own + script], stdin=other, stdout=other, stderr=subprocess.PIPE, env=self.environment)
        os.close(other)
        thread.join(20)
        os.close(main)
        assert done.returncode == 0, done.stderr.decode()
        return self.written.decode().replace("\r\n", "\n")

    def detected(self) -> Terminal:
        text = self.run("from mdm_client.picture.terminal import detect, Terminal; print('found', detect())")
        return eval(text.rpartition("found ")[2], {"Terminal": Terminal})


@pytest.mark.parametrize(
    ("answer", "environment", "protocol"),
    [
        (b"\x1b_Gi=31;OK\x1b\\\x1b[6;18;9t\x1b[?62;c", {"TERM": "xterm-kitty"}, "kitty"),
        (b"\x1b[6;18;9t\x1b[?62;4;22c", {"TERM": "foot"}, "sixel"),
        (b"\x1b[?64;1;2;6;9;15;18;21;22c", {"TERM": "xterm-256color"}, "blocks256"),  # 64 is no 4
        (b"\x1b[?4c", {"TERM": "xterm"}, "blocks256"),  # a VT132, whose class is 4
        (b"\x1b[?6c", {"TERM": "xterm", "COLORTERM": "truecolor"}, "blocks"),
        (b"", {"TERM": "screen"}, "blocks256"),
        (b"", {"TERM": "vt100"}, "plain"),
        (b"\x1b[?6c", {"TERM": "xterm-256color", "NO_COLOR": "1"}, "plain"),
    ],
)
def test_a_terminal_is_asked_what_it_can(answer, environment, protocol):
    found = FakeTerminal(answer, **environment).detected()
    assert (found.protocol, found.size) == (protocol, (100, 30))
    assert found.cell == ((9, 18) if b"[6;18;9t" in answer else (10, 20))


def test_the_size_of_a_character_may_come_from_the_windows_size():
    assert FakeTerminal(b"\x1b[?62;4c", (30, 100, 800, 480), TERM="foot").detected().cell == (8, 16)


def test_a_dumb_terminal_is_asked_nothing():
    terminal = FakeTerminal(b"\x1b[?62;4c", TERM="dumb")
    assert terminal.detected().protocol == "plain"
    assert b"\x1b" not in terminal.written


def test_without_a_terminal_it_is_characters_unless_something_is_asked_for(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert (detect().protocol, detect("kitty").protocol) == ("plain", "kitty")


def test_a_montage_spreads_over_the_series_and_keeps_pictures_apart():
    assert spread(3, 16) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(9, 1) == [4]
    tiles = [Image.new("L", (10, 6), 50 * number) for number in range(1, 6)]
    whole = np.asarray(montage([*tiles[:4], Image.new("L", (20, 6), 250)]))
    assert whole.shape == (14, 34, 3)
    assert [whole[3, x, 0] for x in (0, 9, 10, 12, 24)] == [50, 50, 0, 100, 150]
    assert (whole[9, 5, 0], whole[11, 17, 0], whole[8, 12, 0]) == (200, 250, 0)


def test_a_picture_fits_into_the_terminal_and_is_not_blown_up(picture):
    assert fitted(picture, 80, 24, (10, 20), 4).size == (124, 92)
    assert fitted(picture, 80, 24, (1, 2), 4).size == (65, 48)
    with pytest.raises(Invalid, match="no room"):
        fitted(picture, 80, 1, (1, 2), 4)
