"""What a run or a comparison came to: a table on the terminal, and `igc report`, a page to look at."""
