"""The gateway's routes, a module for each of its subjects."""
