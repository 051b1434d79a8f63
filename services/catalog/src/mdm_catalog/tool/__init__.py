"""Commands for operators on the service's own machine."""
