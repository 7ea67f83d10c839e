"""Why a convolution's phase is slow, by the kernel that it spends most of its cycles in."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "depthwise_unpadded": (
        "nine products a sum are few, and no two outputs share a channel: each word is loaded for one product, and the "
        "padded image is made for them alone"
    ),
    "depthwise_unpadded_weight_gradient": (
        "a word holds two channels of a pixel and a product wants two pixels of a channel, so words are packed and "
        "shuffled before each product, and no two outputs share a channel"
    ),
    "conv2d_phases": (
        "where the stride is larger than the kernel most pixels have no tap: they are written as zeros and multiply "
        "nothing"
    ),
    "conv2d_unpadded": (
        "the image's few channels make a short sum, so that beginning and ending a block of sums takes as long as a "
        "third of its products, and one channel in four is the zero that makes pairs"
    ),
    "paired_gradient": "few pixels share the cost of laying both operands in pairs and of beginning and storing sums",
    "paired_sums_begin": "the sums are few, and laying both operands in pairs takes as long as a part of the products",
    "pair_pixels": "laying the operands in pairs takes longer than the few products that follow",
}


def why(kernels: Mapping[str, int]) -> str:
    """The sentence for a phase with these cycles by kernel. Raises KeyError for a kernel that has none: write it."""
    name = max(kernels, key=lambda each: kernels[each])
    cycles = sum(kernels.values())
    shares = ", ".join(f"`{each}` {n / cycles:.0%}" for each, n in kernels.items() if n >= cycles / 20)
    return f"{REASONS[name]} ({shares})"
