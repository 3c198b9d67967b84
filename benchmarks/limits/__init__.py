"""The limit rows: the fastest code we can write without being a product. See README.md."""
