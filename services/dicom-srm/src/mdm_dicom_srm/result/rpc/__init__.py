"""ResultService: protobuf to rules and back."""
