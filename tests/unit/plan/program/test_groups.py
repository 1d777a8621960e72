import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.plan.program.groups import replica_groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x",
            [[0, 2], [1, 3]],
        ),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
    ],
)
def test_each_notation(text, groups):
    assert replica_groups(f", channel_id=1, {text}", 4).tolist() == groups


def test_what_is_no_collective_has_no_groups():
    assert replica_groups(", metadata={}", 4) is None


def test_an_unknown_notation_is_named():
    with pytest.raises(ValueError, match="unknown notation of replica groups: someday"):
        replica_groups("replica_groups=someday", 4)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    chosen=st.sets(st.integers(0, 2), min_size=1),
)
def test_groups_over_a_mesh_hold_every_device_once(sizes, chosen):
    chosen = sorted({axis % len(sizes) for axis in chosen})
    axes = ",".join(f"'a{n}'={size}" for n, size in enumerate(sizes))
    over = ",".join(f"'a{n}'" for n in chosen)
    groups = replica_groups(f"replica_groups=mesh[{axes}] {{{over}}}", 0)
    assert sorted(groups.ravel()) == list(range(int(np.prod(sizes))))
    assert groups.shape[1] == np.prod([sizes[axis] for axis in chosen])
    places = np.array(np.unravel_index(groups, sizes))
    for axis in range(len(sizes)):
        differs = (places[axis] != places[axis][:, :1]).any()
        assert differs == (axis in chosen and sizes[axis] > 1)
