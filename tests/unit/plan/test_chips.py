from palmscale.observe.throughput import peak_flops_per_device
from palmscale.plan.chips import CHIPS

DEVICE_KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5p", "v6e": "TPU v6 lite"}


def test_a_run_and_a_plan_know_the_same_peak():
    for name, kind in DEVICE_KINDS.items():
        assert CHIPS[name].device_peak_flops == peak_flops_per_device(kind)


def test_a_chip_of_two_devices_shares_its_peak():
    assert CHIPS["tpu7x"].device_peak_flops == CHIPS["tpu7x"].peak_flops / 2


def test_an_unknown_clock_has_no_flops_per_cycle():
    assert CHIPS["v6e"].clock_hz is None and CHIPS["v6e"].flops_per_cycle is None
