"""How a Triton kernel is compiled in practice, so that it can be compiled and judged without a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One compilation of a kernel, and what one run of it moves and does.

    Attributes:
        name: family and part, such as "swirl backward".
        kernel: the jitted function.
        types: Triton's type of each argument that is not a constant ("*fp32", "*i64", "i32", "fp32"), in order.
        constants: the constexpr arguments.
        aligned: integer arguments that are multiples of 16; pointers always are.
        warps: as the launcher asks for.
        most_registers: of a thread, as the launcher's maxnreg says. Left alone, the assembler may rather spill a few bytes.
        fusion: whether a product and a sum may become one operation; off where the launcher says enable_fp_fusion=False.
        bytes_per_pixel: read from and written to global memory per pixel of one image (all its channels), per launch or,
            where a launch is one of several passes, for all of them.
        least_bytes: the least any implementation could move: each input and each output once.
        operations: arithmetic operations, or steps that depend on one another, per pixel, where those and not the bytes
            decide (window, NL-means, seams, TV); 0 elsewhere.
        reason: why it moves more than twice the least, where it does.
        approximate: why division or square root to 2 ulp, `a / b` and `tl.sqrt`, does no harm, where the kernel has them.
            They do where rounding, comparison or floor follows: write `tl.div_rn` and `tl.sqrt_rn` there.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    warps: int = 4
    most_registers: int | None = None
    fusion: bool = True
    bytes_per_pixel: float
    least_bytes: float
    operations: float = 0
    reason: str = ""
    approximate: str = ""
