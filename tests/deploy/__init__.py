"""Tests of the stack that runs on one machine."""
