"""The site people use, and the project's wiring."""
