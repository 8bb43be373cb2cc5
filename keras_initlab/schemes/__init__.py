"""The schemes of `rewrite_initializers`, one file each, and what they share."""
