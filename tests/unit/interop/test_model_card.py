import yaml
from outgoing_model import outgoing

from palmscale.interop.model_card import model_card

ORIGIN = {
    "name": "mine",
    "step": 1200,
    "num_params": 38_080,
    "license": "apache-2.0",
    "language": "en",
    "averaged": 3,
    "datasets": {"pile": "ab12", "code": "cd34"},
}


def test_the_metadata_are_yaml_that_the_hub_reads():
    _, metadata, _ = model_card(outgoing(origin=ORIGIN)).split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "license": "apache-2.0",
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["palm", "palmscale"],
    }


def test_the_text_says_how_it_was_made():
    text = model_card(outgoing(origin=ORIGIN))
    for line in (
        "# mine",
        "| Parameters | 38,080 |",
        "| Training step | 1,200 |",
        "| Averaged over | 3 checkpoints |",
        "- pile: `ab12`",
        "- code: `cd34`",
    ):
        assert line in text.splitlines()


def test_what_is_not_known_is_left_out():
    text = model_card(outgoing(origin={}))
    assert "license" not in text and "Training step" not in text and "Averaged" not in text
