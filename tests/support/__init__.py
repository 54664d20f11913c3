"""Helpers for the tests: servers, clients, fake services and references."""
