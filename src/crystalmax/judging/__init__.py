"""How well features predict, and what that means."""
