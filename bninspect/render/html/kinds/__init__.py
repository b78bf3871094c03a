"""What the page of each kind of report shows: one file per schema, with ``content(report)``.

``together(reports, labels)`` is what differs between several of the kind.
"""
