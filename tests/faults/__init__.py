"""Faults on a real stack, and the checker that says whether the books still balance."""
