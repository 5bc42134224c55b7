"""What two papers print: TriQDef (anonymous, under review) and QADT-R (Guesmi et al. 2025, arXiv 2503.07058).

Their 39 tables with 1,033 numbers, transcribed from the papers' text, in the papers' own rows and columns; the
statements that contradict each other; what they claim. Numbers keep the digits and marks of the print beside their
value. Nothing here was measured by this package.
"""
