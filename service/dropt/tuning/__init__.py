"""Decisions: arms, proposals, pruning, evidence and the verdict."""
