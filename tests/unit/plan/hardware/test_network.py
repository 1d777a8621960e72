import types

import numpy as np
import pytest

from palmscale.plan.hardware.network import HOP_SECONDS, NETWORK, Network, describe_path
from palmscale.plan.hardware.topology import parse


def network(name, slices=1):
    topology = parse(name, slices)
    places = np.ndindex(slices, *topology.dims)
    devices = [types.SimpleNamespace(coords=(*at[1:], 0)[:3], slice_index=at[0]) for at in places]
    return Network(topology, devices)


def seconds(net, kind, members, num_bytes=1e9):
    path = net.path(np.array(members))
    return net.seconds(kind, path, num_bytes) - path.hops * HOP_SECONDS


def test_a_ring_uses_both_directions():
    net = network("v4:4x4x4")  # 50 GB/s a link and direction
    assert seconds(net, "all-gather", range(4)) == pytest.approx(1e9 * 3 / 4 / 100e9)


def test_a_line_uses_one():
    net = network("v5e:4x4")
    assert seconds(net, "all-gather", range(4)) == pytest.approx(1e9 * 3 / 4 / 50e9)


def test_two_rings_together_have_twice_the_bandwidth():
    net = network("v4:4x4x4")
    assert seconds(net, "reduce-scatter", range(16)) == pytest.approx(1e9 * 15 / 16 / 200e9)


def test_an_all_reduce_passes_the_links_twice():
    net = network("v4:4x4x4")
    assert seconds(net, "all-reduce", range(4)) == pytest.approx(
        2 * seconds(net, "all-gather", range(4))
    )


def test_groups_within_one_anothers_gaps_share_the_links():
    net = network("v5e:16x16")
    near, far = seconds(net, "all-gather", [0, 1]), seconds(net, "all-gather", [0, 2])
    assert far == pytest.approx(near * 3 / 2)


def test_between_slices_each_chip_sends_its_own_part():
    net = network("v4:4x4x4", 2)
    path = net.path(np.array([0, 64]))
    assert (path.slices, path.lanes) == (2, {NETWORK})
    rate = net.topology.chip.network_bytes_per_second
    assert net.seconds("all-reduce", path, 1e6) == pytest.approx(2 * 1e6 / 2 / rate)


def test_same_places_of_all_slices_are_groups():
    assert network("v4:4x4x4", 2).across_slices()[:2].tolist() == [[0, 64], [1, 65]]


def test_a_path_is_described_by_torus_dim():
    path = network("v4:4x4x8").path(np.array(range(8)))
    assert describe_path(path.extents, path.rings) == "1 x 1 x 8 (ring)"
    path = network("v5e:16x16").path(np.array(range(4)))
    assert describe_path(path.extents, path.rings) == "1 x 4 (line)"


def test_only_the_torus_dims_in_use_are_busy():
    assert network("v4:4x4x4").path(np.array([0, 16, 32, 48])).lanes == {"0+", "0-"}


def pairs(net, shift, dim=-1):
    """Every device's number with that of the device `shift` further along a dim."""
    numbers = np.arange(np.prod(net.topology.dims)).reshape(net.topology.dims)
    return np.stack([numbers, np.roll(numbers, -shift, dim)], -1).reshape(-1, 2)


def permute_seconds(net, shift, num_bytes=1e9):
    path = net.way(pairs(net, shift))
    return net.seconds("collective-permute", path, num_bytes) - path.hops * HOP_SECONDS


def test_a_shift_along_a_ring_sends_all_of_its_bytes_one_way():
    net = network("v4:4x4x4")
    assert permute_seconds(net, 1) == pytest.approx(1e9 / 50e9)
    assert net.way(pairs(net, 1)).lanes == {"2+"}
    assert net.way(pairs(net, -1)).lanes == {"2-"}


def test_a_shift_by_more_shares_the_links_that_it_passes():
    assert permute_seconds(network("v4:4x4x8"), 3) == pytest.approx(3 * 1e9 / 50e9)


def test_the_shorter_way_round_is_taken():
    net = network("v4:4x4x8")
    assert net.way(pairs(net, 7)).lanes == {"2-"}
    assert net.way(pairs(net, 7)).hops == 1


def test_without_a_ring_the_last_sends_all_the_way_back():
    net = network("v5e:4x4")
    path = net.way(pairs(net, 1))
    assert (path.lanes, path.hops) == ({"1+", "1-"}, 3)
    assert permute_seconds(net, 1) == pytest.approx(1e9 / 50e9)


def test_a_permutation_between_slices_passes_the_network_alone():
    net = network("v4:4x4x4", 2)
    path = net.way(np.array([[0, 64], [1, 65]]))
    assert path.lanes == {NETWORK}
    rate = net.topology.chip.network_bytes_per_second
    assert net.seconds("collective-permute", path, 1e6) == pytest.approx(1e6 / rate)
