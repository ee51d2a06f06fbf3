"""From a finished profile to the notifiers, off the request's thread."""
