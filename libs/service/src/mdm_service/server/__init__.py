"""The gRPC server every service is built on: interception, limits, health, metrics, logs."""
