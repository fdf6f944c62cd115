"""Fidelity ``epoch``: requests between two points of synchronisation are numpy arrays.

The same core decides, by the same events; output enters it as ranges of many responses.

==============  ==================================================================
``log``         the requests, as rows; ``feedback`` those of clients that wait
``lane``        moves rows through a server; ``guest`` has one
``witnesses``   the secondary's rows on their way over the link
``meeting``     when rows of both guests are together, and which differ
``horizon``     how far ahead is planned; ``waiting``: where the plan makes the rows
``telling``     what nodes hear of rows
``foresight``   plans, and what intervenes
``traffic``     what becomes of rows that leave
``output``      puts it together, and does what nodes want
==============  ==================================================================
"""
