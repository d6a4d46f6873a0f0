"""igc in other people's machinery: Flower federations."""
