"""Figures of the paper's own implementation, from its result files: XLM-R base, batches of 32, by merges a batch."""

XNLI_TOKENS = {
    0: 42.143,
    2: 41.533,
    6: 40.818,
    10: 40.242,
    11: 40.114,
    20: 39.141,
    29: 38.384,
    40: 37.563,
    50: 36.964,
    80: 36.127,
    133: 35.936,
}
"""Mean tokens a pair, special ones included: XNLI's English validation pairs."""
XNLI_ACCURACY = {
    0: 84.30,
    1: 84.54,
    2: 84.62,
    3: 84.46,
    5: 84.54,
    10: 84.42,
    15: 84.26,
    20: 84.14,
    25: 83.69,
    30: 83.61,
    35: 83.29,
    40: 82.93,
    50: 82.69,
    60: 82.73,
    80: 82.85,
    100: 82.61,
    133: 82.61,
}
"""Percent of the same pairs, with an adapter trained at 10 merges."""
UNER_TOKENS = {0: 18.678, 10: 17.116, 20: 16.738, 36: 16.227, 60: 15.753, 100: 15.486, 154: 15.424}
"""Mean tokens a sentence: Universal NER, en_ewt, validation."""
