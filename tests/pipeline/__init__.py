"""Tests of the whole: real processes from a camera to a subscriber."""
