"""One page with every result of a study, and its figures as files.

Order of reading: spoken (texts before and after), ablations, units (single neurons), gather (the store as
tables) -> looks (colours, sizes, fonts), highlight (coloured tokens), pieces (of charts) -> matrices, fitting
(to a paper), figures (tables to charts, charts to files) -> page (charts, tables and text to HTML), offline
(charts in a notebook) -> report (all of it at once).
"""
