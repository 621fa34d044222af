"""Models trained so that their circuit is known: strict interchange intervention training, edge by edge."""
