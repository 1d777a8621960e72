"""palmscale: PaLM at any scale, one laptop to thousands of chips."""

__version__ = "0.1.0"
__all__ = ["PaLM", "__version__"]


def __getattr__(name: str):
    # Lazy, so that `palmscale --help` does not wait for JAX.
    if name == "PaLM":
        from palmscale.model.palm import PaLM

        return PaLM
    raise AttributeError(f"module 'palmscale' has no attribute {name!r}")
