"""On one stack that is hurt: poison stays in its topics for good."""
