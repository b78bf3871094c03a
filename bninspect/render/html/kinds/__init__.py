"""What the page of each kind of report shows: one file per schema, with ``content(report)``.

Where several reports of the kind can be laid over each other, it also has ``together(reports, labels)``.
"""
