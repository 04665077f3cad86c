"""What a runner raises when its device is lost to this process. Knows no torch."""


class DeviceLostError(Exception):
    """The device answers every call with an error from now on; only a new process can use it again."""
