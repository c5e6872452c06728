"""Everything that flows out of a run, and its one reader. Imports no torch."""
