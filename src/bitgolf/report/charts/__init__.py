"""Charts of plain values, as SVG elements of a page: lines, bars, points and areas.

`name` is a prefix of all ids of a chart, unique on its page; `description` says what it shows, for screen readers.
"""
