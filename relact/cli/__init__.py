"""The commands: parse, call one library function, print.

Order of reading: entry (signals) -> app (their order, and how problems are told) -> options (declared once)
-> a file per command; terminal, drawing, printing and progress: what they show.
"""
