"""The printed numbers of two papers by Guesmi, Ouni and Shafique: TriQDef and QADT-R.

TriQDef: ICLR 2026, arXiv 2508.12132; QADT-R: 2025, arXiv 2503.07058.
Their 39 tables with 1,033 numbers, transcribed from the papers' text, in the papers' own rows and columns; the
statements that contradict each other; what they claim. Numbers keep the digits and marks of the print beside their
value. Nothing here was measured by this package.
"""
