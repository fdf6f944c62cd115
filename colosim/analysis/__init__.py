"""What results say: intervals, tidy tables, figures.  Reads results only, of whichever world.

``stats``    confidence intervals, alone and paired
``summary``  records of replications as tidy DataFrames, and their summary
``plots``    figures of those DataFrames
"""
