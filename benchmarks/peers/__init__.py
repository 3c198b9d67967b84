"""One module per RPC system that is compared; each has `serve` and `measure`."""
