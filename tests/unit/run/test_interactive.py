"""A prompt, its text, the next prompt; Ctrl-C ends the text and not the program."""

import os
import signal

import pytest

from palmscale.errors import UserError
from palmscale.infer.continuation import Piece, TextRequest
from palmscale.run import interactive


def conversation(monkeypatch, prompts, continued):
    """What is written and complained when these prompts are typed; an exception is raised."""
    written, complaints, typed = [], [], iter([*prompts, EOFError()])
    monkeypatch.setattr(interactive, "continued", continued)

    def read():
        prompt = next(typed)
        if isinstance(prompt, BaseException):
            raise prompt
        return prompt

    interactive.interact(
        *(None, None, TextRequest(seed=3)),
        read=read,
        write=written.append,
        complain=complaints.append,
    )
    return "".join(written), complaints


def test_each_prompt_is_continued_with_a_seed_of_its_own(monkeypatch):
    seeds = []

    def continued(engine, vocabulary, requests):
        seeds.append(requests[0].seed)
        yield 0, Piece(text="1")
        yield 0, Piece(text="2", finish_reason="stop")

    text, complaints = conversation(monkeypatch, ["a", "b"], continued)
    assert text == "a12\nb12\n\n" and not complaints
    assert seeds[0] == 3 and len(set(seeds)) == 2


def test_ctrl_c_ends_the_text_and_the_next_prompt_follows(monkeypatch):
    closed = []

    def continued(engine, vocabulary, requests):
        try:
            yield 0, Piece(text="1")
            os.kill(os.getpid(), signal.SIGINT)
            yield 0, Piece(text="2")
            yield 0, Piece(text="3")
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGINT)
    text, _ = conversation(monkeypatch, ["a", KeyboardInterrupt(), "b"], continued)
    assert text == "a12\n\nb12\n\n" and len(closed) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait_for_the_step(monkeypatch):
    def continued(engine, vocabulary, requests):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield 0, Piece(text="1")

    with pytest.raises(KeyboardInterrupt):
        conversation(monkeypatch, ["a"], continued)


def test_a_prompt_that_does_not_fit_ends_nothing(monkeypatch):
    def continued(engine, vocabulary, requests):
        if requests[0].prompt == "long":
            raise UserError("too long")
        yield 0, Piece(text="1", finish_reason="stop")

    text, complaints = conversation(monkeypatch, ["long", "b"], continued)
    assert complaints == ["too long"] and text == "long\nb1\n\n"
