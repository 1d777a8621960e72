"""Numbers formatted for people."""


def size(num_bytes: float) -> str:
    """Returns a number of bytes with a binary unit, such as `1.36 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} B" if unit == "B" else f"{num_bytes:,.2f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.2f} TiB"
