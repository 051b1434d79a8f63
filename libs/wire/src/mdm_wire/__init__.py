"""What crosses the network, once, for services and clients: errors, channels, distinguished names, permissions, names."""
