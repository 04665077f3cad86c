"""Lines come out of bytes, however those are cut."""

from launcher.output import LineSplitter, OutputLine


def lines(*chunks: bytes) -> list[OutputLine]:
    splitter = LineSplitter()
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found + list(splitter.feed(b"", is_last=True))


def test_a_line_may_come_in_pieces() -> None:
    assert lines(b"one\ntw", b"o\nthr", b"ee") == [OutputLine("one"), OutputLine("two"), OutputLine("three")]


def test_a_character_may_come_in_pieces() -> None:
    assert lines("Zürich\n".encode()[:2], "Zürich\n".encode()[2:]) == [OutputLine("Zürich")]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert lines(b"a\xffb\n") == [OutputLine("a\ufffdb")]


def test_a_progress_bar_is_a_run_of_transient_lines_and_a_last_one() -> None:
    assert lines(b"\r 0%", b"\r50%", b"\r100%\n") == [
        OutputLine(" 0%", is_transient=True),
        OutputLine("50%", is_transient=True),
        OutputLine("100%"),
    ]


def test_a_carriage_return_before_a_newline_is_part_of_the_line_end() -> None:
    assert lines(b"one\r", b"\ntwo\r\n") == [OutputLine("one"), OutputLine("two")]


def test_an_empty_line_is_a_line() -> None:
    assert lines(b"one\n\ntwo\n") == [OutputLine("one"), OutputLine(""), OutputLine("two")]


def test_a_line_without_end_is_cut() -> None:
    assert [len(line.text) for line in lines(b"x" * 70_000, b"y\n")] == [70_000, 1]
