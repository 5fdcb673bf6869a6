"""Ports for processes that are started in a moment, or that nobody listens on."""

import random

from deploy.local.ports import AUTO, is_free


def free_port() -> int:
    """One that a test run beside this one hardly finds in the same moment, and that no outgoing
    connection is numbered with."""
    while not is_free(port := random.choice(AUTO)):
        pass
    return port
