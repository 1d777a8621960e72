"""The letters that byte-level BPE writes bytes as (GPT-2); printable ones stand for themselves."""


def byte_letters() -> list[str]:
    """Returns the letter of each of the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    printable |= set(range(ord("®"), ord("ÿ") + 1))
    others = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
