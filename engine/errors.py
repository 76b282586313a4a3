"""The error raised at the door: input that cannot be used, said in one line."""


class InputError(ValueError):
    """Bad input from a user: the message says what must hold, what came and what to do.

    The command line prints it as one line and exits with status 2; anything else keeps its traceback, because it is ours.
    """
