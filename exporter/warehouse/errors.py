"""Errors of the warehouse; the text of each is one line for a person."""

from __future__ import annotations


class WarehouseError(Exception):
    """A command of the warehouse cannot do its work; the text says what helps."""


class SourceError(WarehouseError):
    """Prometheus cannot be asked, or lacks what is needed."""


class StorageError(WarehouseError):
    """A file of the warehouse cannot be read or written."""
