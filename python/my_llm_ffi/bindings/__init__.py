"""Clients in other languages, made from what the library registers.

`interface` reads the registry; `cpp` and `c` write headers from what it says. ``python -m
my_llm_ffi.bindings`` prints the client of any declared ops, yours among them.
"""
