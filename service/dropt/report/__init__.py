"""The report of a job: its numbers computed from what is stored, its figures, its page."""
