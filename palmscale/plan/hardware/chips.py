"""TPU generations as their vendor specifies them: compute, memory and bandwidth of a chip.

Sources of the figures: Google Cloud's pages of TPU v5e, v5p, v6e and TPU7x (peak, HBM, ICI,
data-center network, host memory); for v4, Jouppi et al. 2023 (arXiv:2304.01433, table 4: peak, HBM,
clock, six links of 50 GB/s) and for its network PaLM, section 4: 81 Tb/s over 1,536 hosts. A clock
is the peak divided by the FLOPs that the matrix units do in a cycle, where the vendor states both
and they agree. For v6e it does not, so the units are those that the vendor's compiler counts. Its
fastest matmul does 94 to 97 % of 2^18 FLOPs a cycle on v4 and v5p and of 2^17 on v5e, as these
chips' units do; on v6e, 87 % of 2^19. No figure is fitted to a measured run.
"""

import dataclasses

from palmscale.observe.throughput import peak_flops_per_device

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One generation of TPU.

    Attributes:
        name: as users write it: `v5p`.
        platform: as the compiler writes it.
        torus_dims: 2 or 3; a chip has two links along each.
        cores: TensorCores a chip.
        devices: JAX devices a chip: 1 where its cores act as one.
        device_kind: as JAX names its devices.
        hbm_bytes: of a chip.
        hbm_bytes_per_second: of a chip.
        link_bytes_per_second: of one ICI link, in one direction.
        network_bytes_per_second: of the data-center network, in one direction, a chip.
        host_bytes: memory of a host (VM).
        host_chips: chips of a host.
        clock_hz: cycles a second; None: unknown.
        max_chips: of the largest slice.
    """

    name: str
    platform: str
    torus_dims: int
    cores: int
    devices: int = 1
    device_kind: str
    hbm_bytes: int
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    network_bytes_per_second: float
    host_bytes: int
    host_chips: int = 4
    clock_hz: float | None
    max_chips: int

    @property
    def device_peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s of one JAX device, by which a run reports its MFU."""
        peak = peak_flops_per_device(self.device_kind)
        if peak is None:
            raise ValueError(f"observe/throughput.py states no peak of {self.device_kind}")
        return peak

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s of a chip."""
        return self.device_peak_flops * self.devices

    @property
    def flops_per_cycle(self) -> float | None:
        """FLOPs of one JAX device's matrix units in a cycle; None where the clock is unknown."""
        return None if self.clock_hz is None else self.device_peak_flops / self.clock_hz


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            platform="v4",
            torus_dims=3,
            cores=2,
            device_kind="TPU v4",
            hbm_bytes=32 * GIB,
            hbm_bytes_per_second=1200e9,
            link_bytes_per_second=50e9,
            network_bytes_per_second=81e12 / 8 / 1536 / 4,
            host_bytes=400 * 10**9,
            clock_hz=1.05e9,  # 2 cores x 4 units x 128 x 128 multiply-adds
            max_chips=4096,
        ),
        Chip(
            name="v5e",
            platform="v5e",
            torus_dims=2,
            cores=1,
            device_kind="TPU v5 lite",
            hbm_bytes=16 * GIB,
            hbm_bytes_per_second=800e9,
            link_bytes_per_second=50e9,
            network_bytes_per_second=25e9 / 8,
            host_bytes=192 * 10**9,
            clock_hz=1.5e9,  # 4 units x 128 x 128 multiply-adds
            max_chips=256,
        ),
        Chip(
            name="v5p",
            platform="v5p",
            torus_dims=3,
            cores=2,
            device_kind="TPU v5p",
            hbm_bytes=95 * GIB,
            hbm_bytes_per_second=2765e9,
            link_bytes_per_second=100e9,
            network_bytes_per_second=50e9 / 8,
            host_bytes=448 * 10**9,
            clock_hz=1.75e9,  # 2 cores x 4 units x 128 x 128 multiply-adds
            max_chips=6144,
        ),
        Chip(
            name="v6e",
            platform="v6e",
            torus_dims=2,
            cores=1,
            device_kind="TPU v6 lite",
            hbm_bytes=32 * GIB,
            hbm_bytes_per_second=1638e9,
            link_bytes_per_second=100e9,
            network_bytes_per_second=100e9 / 8,
            host_bytes=720 * 10**9,
            clock_hz=918e12 / 2**19,  # by the compiler's cycles, see above
            max_chips=256,
        ),
        Chip(
            name="tpu7x",
            platform="tpu7x",
            torus_dims=3,
            cores=2,
            devices=2,
            device_kind="TPU7x",
            hbm_bytes=192 * GIB,
            hbm_bytes_per_second=7380e9,
            link_bytes_per_second=100e9,
            network_bytes_per_second=100e9 / 8,
            host_bytes=960 * 10**9,
            clock_hz=None,
            max_chips=9216,
        ),
    )
}
