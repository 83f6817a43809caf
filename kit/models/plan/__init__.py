"""What a run needs of a card's memory, from the base's config.json alone: no weights, and mostly no torch."""
