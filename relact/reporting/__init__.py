"""One page with every result of a study, and its figures as files.

Order of reading: ablations, gather (the store as tables) -> looks (colours, sizes, fonts),
highlight (coloured tokens), pieces (of charts)
-> matrices, figures (tables to charts, charts to files) -> page (charts, tables and text to HTML) -> report
(all of it at once).
"""
