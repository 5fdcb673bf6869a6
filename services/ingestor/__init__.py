"""Cameras in, frames out: claim -> capture -> pace -> compress -> publish.

A stream is claimed by its owner (`claim`), watched over (`supervise`), and lives in a process of
its own (`camera`).
"""
