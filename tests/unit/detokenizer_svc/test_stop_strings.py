"""Stop strings in text that comes in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from detokenizer_svc.stop_strings import StopStrings

short = st.text(alphabet="abc", min_size=1, max_size=4)


def run(stops: tuple[str, ...], pieces: list[str], *, no_stop_trim: bool = False) -> tuple[list[str], str | None]:
    finder = StopStrings(stops, no_stop_trim=no_stop_trim)
    emitted = []
    for piece in pieces:
        emitted.append(finder.push(piece, may_match=True))
        if finder.matched is not None:
            return emitted, finder.matched
    return [*emitted, finder.flush()], None


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    assert run(("END",), ["one E", "N", "ergy"]) == (["one ", "", "ENergy", ""], None)


def test_a_stop_string_across_pieces_is_trimmed() -> None:
    assert run(("END",), ["one E", "N", "D two"]) == (["one ", "", ""], "END")


def test_without_trimming_the_stop_string_ends_the_text() -> None:
    assert run(("END",), ["one E", "ND two"], no_stop_trim=True) == (["one ", "END"], "END")


def test_the_stop_string_that_begins_first_wins_then_the_longest_then_the_first() -> None:
    assert run(("bc", "abcd"), ["xabcdx"])[1] == "abcd"
    assert run(("ab", "abc"), ["abc"])[1] == "abc"
    assert run(("ab", "abc"), ["ab", "c"])[1] == "ab"


def test_held_text_is_given_out_at_the_end() -> None:
    assert run(("stop",), ["do not sto"]) == (["do not ", "sto"], None)


def test_an_empty_stop_string_never_matches() -> None:
    assert run(("",), ["text"]) == (["text", ""], None)


def test_a_stop_string_below_the_minimum_is_plain_text() -> None:
    finder = StopStrings(("ab",), no_stop_trim=False)
    assert finder.push("xab", may_match=False) == "xab"
    assert finder.push("y", may_match=True) == "y"
    assert finder.matched is None


def test_a_stop_string_inside_held_text_below_the_minimum_does_not_match_later() -> None:
    finder = StopStrings(("xaby", "ab"), no_stop_trim=False)
    assert finder.push("xab", may_match=False) == ""
    assert finder.push("z", may_match=True) == "xabz"
    assert finder.matched is None


@given(
    stops=st.lists(short, min_size=1, max_size=4), pieces=st.lists(st.text(alphabet="abcd", max_size=4), max_size=20)
)
def test_what_is_emitted_is_the_text_before_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    emitted, matched = run(tuple(stops), pieces)
    whole = "".join(pieces)
    begins = {stop: whole.find(stop) for stop in stops if stop in whole}
    if matched is None:
        assert not begins
        assert "".join(emitted) == whole
    else:
        assert "".join(emitted) == whole[: whole.find(matched)]
        assert not any(stop in "".join(emitted) for stop in stops)


@given(
    stops=st.lists(short, min_size=1, max_size=4), pieces=st.lists(st.text(alphabet="abcd", max_size=4), max_size=20)
)
def test_no_more_is_held_back_than_a_stop_string_could_need(stops: list[str], pieces: list[str]) -> None:
    finder = StopStrings(tuple(stops), no_stop_trim=False)
    seen = emitted = ""
    for piece in pieces:
        emitted += finder.push(piece, may_match=True)
        if finder.matched is not None:
            return
        seen += piece
        prefixes = [stop[:length] for stop in stops for length in range(1, len(stop)) if seen.endswith(stop[:length])]
        assert seen == emitted + max(prefixes, key=len, default="")
