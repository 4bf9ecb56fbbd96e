"""Prefect's `utilities`: its documented names, which live elsewhere here."""
