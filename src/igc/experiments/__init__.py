"""Recipes, runs, checkpoints, metrics and what a person sees of them."""
