"""The version, read by the build and by `luthier --version`."""

__version__ = "0.1.0"
