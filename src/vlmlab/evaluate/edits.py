"""Edit distance (Levenshtein, 1965), by the bits of whole numbers: a column of the table is one number.

The recurrence is that of Myers (1999) as Hyyrö (2003) gives it for the distance of two whole strings.
"""


def edits(said: str, reference: str) -> int:
    """How many letters must be put in, taken out or changed to turn one text into the other."""
    if said == reference:
        return 0
    if not said or not reference:
        return len(said) or len(reference)
    places: dict[str, int] = {}
    bit = 1
    for letter in said:
        places[letter] = places.get(letter, 0) | bit
        bit <<= 1
    whole, last, distance = bit - 1, bit >> 1, len(said)
    rises, falls = whole, 0  # where the column goes up or down by one, from each row to the next
    for letter in reference:
        same = places.get(letter, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same | falls
        up, down = falls | ~(diagonal | rises), diagonal & rises
        if up & last:
            distance += 1
        elif down & last:
            distance -= 1
        up, down = up << 1 | 1, down << 1
        rises = (down | ~(diagonal | up)) & whole
        falls = up & diagonal & whole
    return distance
