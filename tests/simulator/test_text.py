from engine.upstream.simulator.text import cut_fragments, pick_bytes, pick_tokens, split_tokens


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    longest = "".join(pick_tokens(7, 10_000))
    for count in (0, 1, 60, 4096, 4097):
        assert longest.startswith("".join(pick_tokens(7, count)))


def test_tokens_and_fragments_join_to_the_text_again() -> None:
    for text in ("", " ", "one", "  two  words \n", "ein\n\nzwei\tdrei"):
        assert "".join(split_tokens(text)) == text
        assert "".join(cut_fragments(text)) == text


def test_other_text_differs_from_the_first_letter() -> None:
    assert pick_tokens(7, 1)[0][0] != pick_tokens(7, 1, other=True)[0][0]


def test_bytes_are_filled_and_hardly_more() -> None:
    assert 5000 <= len("".join(pick_bytes(3, 5000))) <= 5020
