"""The compiled CPU kernel: finding and loading its library."""


def absence() -> str:
    """Why the kernel cannot run here, or an empty string."""
    return "the compiled library is not part of this installation"
