"""The rules, a module for each kind of fault. One more is one more module."""
