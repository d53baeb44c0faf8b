"""Accelerators for generated graphs: a roofline and a link."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """What an accelerator can do.

    Attributes
    ----------
    name : str
    flops : float
        Multiply-adds count two, per second, dense matrix products in the model's precision.
    memory_bandwidth : float
        Bytes per second.
    link_bandwidth : float
        Bytes per second that an accelerator sends, and receives, at the same time.
    link_latency : float
        Seconds per message.
    element : int
        Bytes of a number.
    efficiency : float
        Share of `flops` that a large matrix product reaches.
    overhead : float
        Seconds that each operation costs at least: a kernel's launch.
    memory : float
        Bytes.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    link_latency: float
    element: int = 2
    efficiency: float = 0.6
    overhead: float = 5e-6
    memory: float = 80e9


ACCELERATORS = {
    # NVIDIA Tesla V100 GPU Accelerator datasheet (2018), SXM2: 125 TFLOP/s tensor cores, 900 GB/s, NVLink 300 GB/s
    # both ways.
    "V100": Accelerator("V100", 125e12, 900e9, 150e9, 5e-6, memory=32e9),
    # NVIDIA A100 80GB datasheet (2021), SXM4: 312 TFLOP/s BF16, 2039 GB/s, NVLink 600 GB/s both ways.
    "A100-80GB": Accelerator("A100-80GB", 312e12, 2039e9, 300e9, 5e-6),
    # NVIDIA H100 datasheet (2022), SXM5: 989 TFLOP/s BF16 without sparsity, 3.35 TB/s, NVLink 900 GB/s both ways.
    "H100": Accelerator("H100", 989e12, 3.35e12, 450e9, 5e-6),
    # A server with two sockets of 32 cores with two AVX-512 FMA units at 2.5 GHz (2·32·2·16·2·2.5e9 float32), eight
    # channels of DDR5-4800 a socket (Intel ARK, Xeon Platinum 8462Y+), 100 Gb/s Ethernet; latency of a kernel's TCP.
    "AVX-512": Accelerator("AVX-512", 10.24e12, 614e9, 12.5e9, 2e-5, 4, 0.8, 2e-6, 512e9),
}
"""Presets. What share a product reaches, latencies and overheads are round numbers of ours, not a datasheet's."""
