"""Operators of torch whose results IEEE 754 determines: movements of data, comparisons, and single roundings.

They are the same on every processor, so portable arithmetic leaves them to torch. An operator that fuses or reorders
roundings (`addcmul`, `lerp`, `sum`, …) does not belong here.
"""

MOVEMENTS = """
    _local_scalar_dense _reshape_alias _to_copy _unsafe_view alias as_strided cat clone constant_pad_nd copy copy_ detach
    detach_ diagonal embedding empty empty_like empty_strided expand fill fill_ flip full full_like gather index
    index_copy index_put index_put_ index_select lift lift_fresh lift_fresh_copy masked_fill masked_fill_ masked_select
    narrow new_empty new_empty_strided new_full new_ones new_zeros ones ones_like permute repeat roll scalar_tensor
    scatter select select_scatter slice slice_scatter split split_with_sizes squeeze stack t transpose tril triu unbind
    unfold unsqueeze view where zero_ zeros zeros_like
""".split()  # noqa: SIM905
"""Views, copies, selections, constants, and conversions between types (one rounding)."""

COMPARISONS = "all any eq equal ge gt isfinite isinf isnan le lt ne sign signbit".split()  # noqa: SIM905
"""Comparisons. The larger of two numbers is not among them: of 0 and -0, torch may take either."""

ROUNDINGS = """
    abs abs_ add add_ ceil div div_ floor leaky_relu mul mul_ neg neg_ reciprocal round rsub sub sub_ trunc
""".split()  # noqa: SIM905
"""Additions, products and divisions, each rounded once, and operations without rounding.

`sqrt` is not among them: with MKL, torch does not round it correctly. `add`, `sub` and `rsub` only without a factor
`alpha`, `div` only without `rounding_mode`.
"""

EXACT = frozenset(MOVEMENTS + COMPARISONS + ROUNDINGS)
