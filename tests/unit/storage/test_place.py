from pathlib import Path

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place


def test_a_url_is_a_place_in_a_bucket_and_anything_else_a_folder():
    assert place("gs://bucket/run/") == ObjectPath("gs://bucket/run")
    assert place(place("gs://bucket/run")) == ObjectPath("gs://bucket/run")
    assert place("runs/a") == Path("runs/a") == place(Path("runs/a"))
