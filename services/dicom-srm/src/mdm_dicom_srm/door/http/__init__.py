"""HTTP: requests to rules and back."""
