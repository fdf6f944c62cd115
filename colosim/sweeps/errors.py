"""What can be wrong with a sweep."""


class SweepError(ValueError):
    """A sweep that cannot be run, or a directory that holds another one; one line."""
