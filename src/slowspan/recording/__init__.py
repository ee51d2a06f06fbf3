"""From a late request's stacks to a finished profile."""
