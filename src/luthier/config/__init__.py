"""What the user asked for, and the resolved plan of what will therefore happen. Imports no torch."""
