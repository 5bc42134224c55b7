"""The papers' tables, filled with what runs measured."""
