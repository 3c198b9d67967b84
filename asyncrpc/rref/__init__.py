"""Remote references: who holds what on which worker, and when a value may go."""
