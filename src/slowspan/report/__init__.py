"""From a profile to what a person reads."""
