"""The live world: real QEMU guests."""
