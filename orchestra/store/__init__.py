"""The database: tables, transactions, and one file per noun."""

from __future__ import annotations
