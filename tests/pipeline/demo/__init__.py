"""On one stack, as `make demo` has it: two cameras and a file."""
