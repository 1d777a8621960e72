import logging

import pytest

from palmscale.observe import log


@pytest.fixture(autouse=True)
def as_it_was():
    names = ["palmscale", *log._CHATTY]
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    yield
    for logger, level in before:
        logger.setLevel(level)
    log._logger.handlers, log._logger.propagate = [], True


def test_messages_go_to_stderr_once_each_with_nothing_added(capsys):
    log.set_up()
    log.set_up()
    log.say("saved [step] 10")
    log.warn("a " + "long " * 60 + "line")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "saved [step] 10\nwarning: a " + "long " * 60 + "line\n"


def test_of_several_processes_the_first_says_what_happens_and_each_what_went_wrong(capsys):
    log.set_up(process_index=0, process_count=4)
    log.say("hello")
    assert capsys.readouterr().err == "[0] hello\n"
    log.set_up(process_index=3, process_count=4)
    log.say("hello")
    log.warn("trouble")
    assert capsys.readouterr().err == "[3] warning: trouble\n"


def test_libraries_chatter_is_silent_and_their_errors_are_not(capsys, caplog):
    log.set_up()
    logging.getLogger("absl").warning("chatter")
    logging.getLogger("absl").error("trouble")
    assert [record.message for record in caplog.records] == ["trouble"]


def test_a_message_with_what_a_terminal_would_obey_is_escaped(capsys):
    log.set_up()
    log.warn("named \x1b[2J by a file")
    assert "named \\x1b[2J by a file" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError()])
def test_a_log_that_takes_nothing_does_not_end_the_run(error, monkeypatch):
    class Full:
        def write(self, text):
            raise error

        def flush(self):
            pass

    console = log._Console(file=Full())
    monkeypatch.setattr(log, "console", console)
    log.set_up()
    log.say("a line")
    log.show("step 3")
