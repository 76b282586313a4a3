"""The error raised at the door: input that cannot be used, said in one line."""


class InputError(ValueError):
    """Bad input from a user: the message says what must hold, what came and what to do.

    The command line prints it as one line and exits with status 2; anything else keeps its traceback, because it is ours.

    Example:
        >>> from cannonade import build_defense
        >>> build_defense("rotation(degree=90)")
        Traceback (most recent call last):
            ...
        cannonade.errors.InputError: rotation has no argument 'degree', did you mean degrees; its arguments: backward, degrees
    """
