import html.parser

import small_plan

from palmscale.plan.plans import Plans
from palmscale.plan.report.page import page


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
    plans = tuple(map(small_plan.plan, verdicts))
    checker = Checker()
    checker.feed(page(Plans(versions={"jax": "1.2"}, run={}, plans=plans)))
    assert checker.open == []
    return checker, " ".join(checker.text)


def test_the_page_is_whole_and_needs_nothing_else():
    checker, text = read(small_plan.fits())
    assert checker.addresses == []
    for expected in ("fits: 5.00 GiB of 15.75", "logits: 2.00 GiB", "reduce-scatter over data",
                     "not measured on a TPU", "jax 1.2", "<nobody> expects it"):  # fmt: skip
        assert expected in text


def test_each_stage_has_its_part_and_a_no_needs_no_program():
    _, text = read(small_plan.fits(), small_plan.does_not_fit())
    assert "DOES NOT FIT" in text and "fits: 5.00 GiB" in text
