import pytest

from palmscale.model.palm import PaLM
from palmscale.observe.throughput import Throughput, peak_flops_per_device


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


def test_flops_are_those_of_the_papers_540b():
    # PaLM, appendix B: at 238.3K tokens/s on 6144 TPU v4 chips the MFU was 46.2%.
    model = PaLM(dim=18432, num_tokens=256_000, depth=118, heads=48, dim_head=256)
    flops = 6 * 540_350_000_000 + model.attention_flops_per_token(2048)
    peak = 6144 * peak_flops_per_device("TPU v4")
    assert 238.3e3 * flops / peak == pytest.approx(0.462, abs=0.001)


def test_peaks_are_the_vendors_and_unknown_devices_have_none():
    for kind, peak in [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 2307e12 / 2),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
    ]:
        assert peak_flops_per_device(kind) == peak
    for kind in "cpu", "NVIDIA H100 PCIe", "TPU9x", "":
        assert peak_flops_per_device(kind) is None


def test_report_gives_rates_since_the_last_one():
    clock = Clock()
    throughput = Throughput(flops_per_token=2.0, peak_flops=100.0, clock=clock)
    for _ in range(2):
        throughput.add(60)
        clock.seconds += 3
        with throughput.waiting_for_input():
            clock.seconds += 1
        with throughput.paused():
            clock.seconds += 1000
        assert throughput.report() == {
            "tokens_per_second": 15.0,
            "input_wait_fraction": 0.25,
            "mfu": 0.3,
        }
    assert throughput.report() == {}


def test_there_is_no_mfu_without_a_known_peak():
    clock = Clock()
    throughput = Throughput(flops_per_token=2.0, clock=clock)
    clock.seconds += 1
    assert set(throughput.report()) == {"tokens_per_second", "input_wait_fraction"}
