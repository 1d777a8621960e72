import argparse

import pytest

from palmscale.cli.place import place_of
from palmscale.cluster.join import ProcessPlace
from palmscale.errors import UserError


def flags(coordinator=None, num_processes=None, process_id=None):
    return argparse.Namespace(
        coordinator=coordinator, num_processes=num_processes, process_id=process_id
    )


def test_without_flags_the_environment_is_asked():
    assert place_of(flags()) is None


def test_the_flags_give_a_place():
    place = ProcessPlace(coordinator="here:90", num_processes=2, process_id=0)
    assert place_of(flags("here:90", 2, 0)) == place


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("a:80", 2, None), "process_id"),
        (("a:80", None, 0), "num_processes"),
        ((None, 2, 0), "coordinator"),
    ],
)
def test_a_part_of_a_place_is_refused_by_what_is_missing(given, missing):
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        place_of(flags(*given))
