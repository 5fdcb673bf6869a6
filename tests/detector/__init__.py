"""Tests of the detector: its steps alone, and real processes on a real broker."""
