"""Shared by services and clients, for what crosses the network: errors, channels, distinguished names, permissions, names."""
