"""Ranges of the integer storage types."""

_RANGES = {
    f"{sign}int{bits}": ((0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}


def integer_range(storage: str) -> tuple[int, int]:
    """The least and greatest value of ``int8`` … ``int64``, ``uint8`` … ``uint64``."""
    return _RANGES[storage]
