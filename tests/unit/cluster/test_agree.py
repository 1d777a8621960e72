"""What hosts tell one another: complete, in order, and with names for who is late or differs."""

import concurrent.futures
import time

import board
from jax._src.lib import _jax

from palmscale.cluster import agree
from palmscale.cluster.agree import Peers, check_alike
from palmscale.errors import HostLost, UserError


def each(peers, do):
    """What `do` returns or raises for each process, all at once."""

    def one(own):
        try:
            return do(own)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(one, peers))


def test_all_texts_come_to_all_in_the_order_of_the_processes():
    peers = board.peers(3)
    for _ in range(2):
        answers = each(peers, lambda own: own.gather("colors", f"{own.index} red", 5))
        assert answers == [["0 red", "1 red", "2 red"]] * 3


def test_process_0_decides_for_all():
    def longest(texts):
        return max(texts, key=len)

    peers = board.peers(3)
    assert each(peers, lambda own: own.decide("best", "x" * own.index, longest, 5)) == ["xx"] * 3


def test_what_was_agreed_before_is_forgotten_once_all_have_heard_it():
    made = board.Board()
    peers = board.peers(3, made)
    for _ in range(12):
        each(peers, lambda own: own.decide("best", "x", max, 5))
        assert len(made.values) == 4  # three texts and the answer


def test_who_does_not_come_is_named_with_what_for():
    peers = board.peers(3)
    for error in each(peers[:2], lambda own: own.gather("colors", "red", 0.2)):
        assert isinstance(error, HostLost)
        assert "process 2 on c did not reach the colors within 0.2 s" in str(error)


def test_what_process_0_says_comes_to_all_in_order_and_is_forgotten(monkeypatch):
    monkeypatch.setattr(agree, "_BROADCASTS_KEPT", 4)
    made = board.Board()
    peers = board.peers(3, made)

    def talk(own):
        return [
            own.broadcast("orders", f"order {n}" if own.index == 0 else None) for n in range(15)
        ]

    assert each(peers, talk) == [[f"order {n}" for n in range(15)]] * 3
    assert len([name for name in made.values if "/orders/" in name]) <= 4


def test_who_waits_for_an_order_is_still_alive(monkeypatch):
    monkeypatch.setattr(agree, "_LISTEN_SECONDS", 0.01)
    first, second = board.peers(2)
    asked = []

    def waiting():
        asked.append(1)
        if len(asked) == 3:
            first.broadcast("orders", "go")

    assert second.broadcast("orders", None, waiting) == "go" and len(asked) >= 3


def test_a_single_process_answers_at_once():
    alone = Peers(["here"], index=0)
    assert alone.gather("colors", "red", 0) == ["red"]
    assert alone.decide("colors", "red", lambda texts: texts[0] * 2, 0) == "redred"
    assert alone.broadcast("colors", "blue") == "blue"
    alone.publish("board", "text")
    assert alone.read("board") == {}


def test_a_board_holds_the_last_text_of_each():
    first, second = board.peers(2)
    assert first.read("moods") == {}
    first.publish("moods", "good")
    first.publish("moods", "better")
    second.publish("moods", "bad")
    assert second.read("moods") == {0: "better", 1: "bad"}


def test_equal_facts_pass_and_a_differing_one_is_named_with_both_values():
    peers = board.peers(3)
    facts = {"jax": "1", "the step": "abc"}
    assert each(peers, lambda own: check_alike(own, facts, 5)) == [None] * 3
    for error in each(
        peers, lambda own: check_alike(own, facts | {"jax": "2"} if own.index == 2 else facts, 5)
    ):
        assert isinstance(error, UserError)
        assert str(error).startswith("process 0 on a and process 2 on c differ in jax: 1 and 2")


def test_a_fact_that_only_one_states_is_a_difference():
    errors = each(
        board.peers(2), lambda own: check_alike(own, {"flag": "on"} if own.index else {}, 5)
    )
    assert all("flag: None and on" in str(error) for error in errors)


def test_what_is_used_of_jaxs_private_client_is_there():
    client = _jax.DistributedRuntimeClient
    documented = [
        client.key_value_set.__doc__,
        client.blocking_key_value_get.__doc__,
        client.key_value_dir_get.__doc__,
        client.key_value_delete.__doc__,
        client.key_value_try_get.__doc__,
    ]
    assert documented == [
        "key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None",
        "blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str",
        "key_value_dir_get(self, key: str) -> list[tuple[str, str]]",
        "key_value_delete(self, key: str) -> None",
        "key_value_try_get(self, key: str) -> str",
    ]


def test_waiting_ends_as_soon_as_the_last_one_is_there():
    began = time.monotonic()
    each(board.peers(2), lambda own: own.gather("colors", "red", 30))
    assert time.monotonic() - began < 15
