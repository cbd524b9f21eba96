"""Runs kernel TLS tests on Debian's 6.12 kernel, in a virtual machine without a disk."""
