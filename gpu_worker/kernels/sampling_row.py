"""What a row of the table of sampling parameters holds: 32-bit words, floats as their bits. Knows no tensors.

A sequence keeps its row while it runs, so a step names rows and nothing else.
"""

NUM_WORDS = 12

INVERSE_TEMPERATURE = 0
"""1 / temperature as float32, 0 for a greedy row."""
SEED_LOW, SEED_HIGH, CHOICE = 1, 2, 3
IS_FILTERED = 4
"""1 if the row is sampled with any of the next three."""
TOP_K, TOP_P, MIN_P = 5, 6, 7
"""An int that is the vocabulary's size or more if off, two floats that are 1 and 0 if off."""
HAS_PENALTIES = 8
"""1 if any of the next three changes something, so that the row's tokens are counted."""
REPETITION, FREQUENCY, PRESENCE = 9, 10, 11
