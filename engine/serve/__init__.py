"""Processes: one supervisor, its workers, and what stands between a socket and the application."""
