"""What the terminal shows of many processes."""

import io
import os

import pytest

from launcher.logs import Terminal, wants_colour


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_line_stands_behind_the_name_of_its_instance() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, is_coloured=False, name_width=9)
    terminal.show("gateway-0", "up")
    terminal.show("nats", "up")
    assert stream.getvalue() == "gateway-0 | up\nnats      | up\n"


def test_a_stage_has_one_colour() -> None:
    stream = Tty()
    terminal = Terminal(stream, is_coloured=True, name_width=8)
    terminal.show("worker-0", "a")
    terminal.show("worker-1", "b")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("\x1b[32mworker-0 |\x1b[0m ")
    assert second.startswith("\x1b[32mworker-1 |\x1b[0m ")


def test_a_progress_bar_is_redrawn_on_a_terminal() -> None:
    stream = Tty()
    terminal = Terminal(stream, is_coloured=False, name_width=1)
    terminal.show("w", "50%", is_transient=True)
    terminal.show("w", "done")
    assert stream.getvalue() == "w | 50%\r\x1b[Kw | done\n"


def test_a_progress_bar_is_left_out_of_a_file() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, is_coloured=False, name_width=1)
    terminal.show("w", "50%", is_transient=True)
    terminal.show("w", "done")
    assert stream.getvalue() == "w | done\n"


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [(Tty(), {}, True), (Tty(), {"NO_COLOR": "1"}, False), (Tty(), {"NO_COLOR": ""}, True), (io.StringIO(), {}, False)],
)
def test_only_a_terminal_gets_colours_and_only_without_no_color(
    stream: io.StringIO, environ: dict[str, str], expected: bool
) -> None:
    assert wants_colour(stream, environ) is expected


def test_an_unfinished_bar_makes_room_for_what_others_write() -> None:
    stream = Tty()
    terminal = Terminal(stream, is_coloured=False, name_width=1)
    terminal.show("w", "50%", is_transient=True)
    terminal.make_room()
    terminal.make_room()
    stream.write("trace\n")
    terminal.show("w", "done")
    assert stream.getvalue() == "w | 50%\r\x1b[Ktrace\nw | done\n"


def test_a_reader_that_went_away_stops_nobody() -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123  # a pipe has no path
        terminal = Terminal(stream, is_coloured=False, name_width=1)
        terminal.show("w", "seen")
        os.close(reader)
        terminal.show("w", "lost")
        terminal.show("w", "lost too")
