import html.parser

import small_plan

from palmscale.plan import report
from palmscale.plan.page import page


class Checker(html.parser.HTMLParser):
    """Notes tags that are not closed, and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def read(*verdicts):
    plans = [report.to_json(v, tokens_to_train=10**9, dollars_per_chip_hour=None) for v in verdicts]
    checker = Checker()
    checker.feed(page({"versions": {"jax": "1.2"}, "plans": plans}))
    assert checker.open == []
    return checker, " ".join(checker.text)


def test_the_page_is_whole_and_needs_nothing_else():
    checker, text = read(small_plan.verdict())
    assert checker.addresses == []
    for expected in ("fits: 5.00 GiB of 15.75", "logits: 2.00 GiB", "reduce-scatter over data",
                     "not measured on a TPU", "jax 1.2", "<nobody> expects it"):  # fmt: skip
        assert expected in text


def test_each_stage_has_its_part_and_a_no_needs_no_program():
    no = small_plan.verdict(fits=False, held={}, found=(), surprises=(), times=None, fast=None,
                            slow=None, compiled=None)  # fmt: skip
    _, text = read(small_plan.verdict(), no)
    assert "DOES NOT FIT" in text and "fits: 5.00 GiB" in text
