"""Kinds of auth that need more than a constant header: each is a named verb that any provider's file may choose."""
